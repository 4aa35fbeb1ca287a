#include "base/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cctype>
#include <sstream>

#include "base/error.h"
#include "base/file_system.h"
#include "base/text.h"
#include "base/utf8.h"

namespace swiattn {
namespace {

constexpr size_t kMostNodes = 10000;
constexpr size_t kDeepest = 50;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// 010, -007: other readers of YAML take these for octal numbers, some for decimal ones.
bool looks_octal(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return text.size() > 1 && text[0] == '0' && std::all_of(text.begin(), text.end(), is_digit);
}

bool looks_non_finite(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  std::string lower;
  for (char c : text) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower == ".inf" || lower == ".nan";
}

// What a plain scalar may look like without meaning null, true, a number or punctuation.
bool is_safely_plain(std::string_view text) {
  if (text.empty() || !(std::isalpha(static_cast<unsigned char>(text[0])) || text[0] == '/')) {
    return false;
  }
  const auto safe = [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) || std::string_view("_-./+").find(static_cast<char>(c)) !=
                                               std::string_view::npos);
  };
  static constexpr std::string_view kWords[] = {"null", "true", "false", "yes", "no", "on",
                                                "off",  "nan",  "inf",   "y",   "n"};
  std::string lower;
  for (char c : text) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return std::all_of(text.begin(), text.end(), safe) &&
         std::find(std::begin(kWords), std::end(kWords), lower) == std::end(kWords);
}

// Builds the tree from yaml-cpp's events, which come before any alias is followed.
class TreeBuilder : public YAML::EventHandler {
 public:
  // Without lines every place is the source alone.
  TreeBuilder(const std::string& source, bool with_lines)
      : source_(source), with_lines_(with_lines) {}

  std::string place(int line) const {  // from 0; negative when not known
    return with_lines_ ? fmt::format("{}:{}", source_, std::max(line, 0) + 1) : source_;
  }
  YamlNode take_root() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override { root_.place = place(mark.line); }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check(mark, "?", anchor);
    add(mark, YamlNode::Kind::kNull);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail(ExitCode::kConfiguration, "{}: aliases (*name) are not supported; write the value again.",
         place(mark.line));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    check(mark, tag, anchor);
    const bool quoted = tag == "!";
    if (wants_key()) return take_key(mark, value, quoted);
    if (!quoted && looks_octal(value)) {
      fail(ExitCode::kConfiguration,
           "{}: \"{}\" could be octal or decimal; drop the leading zeros, or quote a text.",
           place(mark.line), value);
    }
    if (!quoted && looks_non_finite(value)) {
      fail(ExitCode::kConfiguration, "{}: \"{}\" is not a finite number.", place(mark.line), value);
    }
    YamlNode& node = add(mark, YamlNode::Kind::kScalar);
    node.text = value;
    node.quoted = quoted;
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    check(mark, tag, anchor);
    open(mark, YamlNode::Kind::kList);
  }
  void OnSequenceEnd() override { open_.pop_back(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    check(mark, tag, anchor);
    open(mark, YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  struct Open {
    YamlNode* node;
    bool has_key = false;  // of a map: its value comes next
  };

  bool wants_key() const {
    return !open_.empty() && open_.back().node->kind == YamlNode::Kind::kMap &&
           !open_.back().has_key;
  }

  void check(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    if (anchor != 0) {
      fail(ExitCode::kConfiguration, "{}: anchors (&name) are not supported.", place(mark.line));
    }
    // yaml-cpp gives "?" to what is plain and "!" to what is quoted.
    if (!tag.empty() && tag != "?" && tag != "!") {
      fail(ExitCode::kConfiguration, "{}: tags (\"{}\") are not supported.", place(mark.line), tag);
    }
    if (++nodes_ > kMostNodes) {
      fail(ExitCode::kConfiguration, "{}: there are more than {} values.", place(mark.line),
           kMostNodes);
    }
  }

  void take_key(const YAML::Mark& mark, const std::string& key, bool quoted) {
    if (key == "<<" && !quoted) {
      fail(ExitCode::kConfiguration, "{}: merge keys (<<) are not supported.", place(mark.line));
    }
    Open& map = open_.back();
    if (const YamlNode* earlier = map.node->find(key)) {
      fail(ExitCode::kConfiguration, "{}: the key \"{}\" stands twice; the first is at {}.",
           place(mark.line), key, earlier->place);
    }
    map.node->entries.push_back({key, {}});
    map.has_key = true;
  }

  YamlNode& add(const YAML::Mark& mark, YamlNode::Kind kind) {
    if (wants_key()) {
      fail(ExitCode::kConfiguration, "{}: expected a name as key, found {}.", place(mark.line),
           kind == YamlNode::Kind::kNull ? "none" : "a list or map (is a bracket not closed?)");
    }
    YamlNode* node = &root_;
    if (!open_.empty()) {
      Open& parent = open_.back();
      if (parent.node->kind == YamlNode::Kind::kList) {
        node = &parent.node->items.emplace_back();
      } else {
        node = &parent.node->entries.back().value;
        parent.has_key = false;
      }
    }
    node->kind = kind;
    node->place = place(mark.line);
    return *node;
  }

  void open(const YAML::Mark& mark, YamlNode::Kind kind) {
    if (open_.size() >= kDeepest) {
      fail(ExitCode::kConfiguration, "{}: nesting is deeper than {}.", place(mark.line), kDeepest);
    }
    // Addresses stay: only the innermost open node grows.
    YamlNode& node = add(mark, kind);
    open_.push_back({&node});
  }

  const std::string& source_;
  bool with_lines_;
  size_t nodes_ = 0;
  YamlNode root_;
  std::vector<Open> open_;
};

// Refuses bytes that yaml-cpp would misread: it takes 0x04 for the end and NULs for UTF-16.
void check_bytes(std::string_view text, const TreeBuilder& builder) {
  int line = 0;
  while (!text.empty()) {
    const size_t length = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view bytes = text.substr(0, length);
    if (!is_valid_utf8(bytes)) {
      fail(ExitCode::kConfiguration, "{}: this is not valid UTF-8.", builder.place(line));
    }
    for (unsigned char c : bytes) {
      if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f) {
        fail(ExitCode::kConfiguration, "{}: there is a control character (0x{:02x}).",
             builder.place(line), c);
      }
    }
    text.remove_prefix(length);
    ++line;
  }
}

YamlNode parse(std::string_view text, const std::string& source, bool with_lines) {
  TreeBuilder builder(source, with_lines);
  if (text.size() > kLargestYaml) {
    fail(ExitCode::kConfiguration, "{}: {} bytes are more than the {} allowed.", source,
         text.size(), kLargestYaml);
  }
  check_bytes(text, builder);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder)) {
      YamlNode empty;
      empty.place = builder.place(0);
      return empty;
    }
    YamlNode root = builder.take_root();
    TreeBuilder second(source, with_lines);
    if (parser.HandleNextDocument(second)) {
      fail(ExitCode::kConfiguration, "{}: a second document (---) is not supported.",
           second.take_root().place);
    }
    return root;
  } catch (const YAML::Exception& error) {
    fail(ExitCode::kConfiguration, "{}: this is not valid YAML: {}.",
         builder.place(error.mark.line), error.msg);
  }
}

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string YamlNode::describe() const {
  switch (kind) {
    case Kind::kNull:
      return "null";
    case Kind::kScalar:
      return fmt::format("\"{}\"", shorten(text, 60));
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      return "a map";
  }
  return "";
}

YamlNode parse_yaml(std::string_view text, const std::string& source) {
  return parse(text, source, true);
}

YamlNode read_yaml_file(const std::string& path) {
  return parse_yaml(read_file(path, ExitCode::kConfiguration, kLargestYaml), path);
}

YamlNode parse_yaml_value(std::string_view text, const std::string& place) {
  return parse(text, place, false);
}

std::string quote_yaml(std::string_view text) {
  if (is_safely_plain(text)) return std::string(text);
  std::string quoted = "\"";
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      quoted += fmt::format("\\x{:02x}", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace swiattn
