// Strict YAML: a small subset, read into a tree in which every value knows where it stands. What
// yaml-cpp accepts silently (duplicate keys, aliases that explode, octal numbers, a second
// document, NaN, broken UTF-8) is refused here in a sentence that names file and line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace swiattn {

inline constexpr uint64_t kLargestYaml = 1 << 20;  // bytes of a document

struct YamlEntry;

// One value of a document. A scalar is text still: its reader decides what it must be.
struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  Kind kind = Kind::kNull;
  std::string place;  // "run.yaml:12"
  std::string text;   // of a scalar
  bool quoted = false;
  std::vector<YamlNode> items;     // of a list
  std::vector<YamlEntry> entries;  // of a map, in the file's order

  // The value of this key of a map, or nullptr.
  const YamlNode* find(std::string_view key) const;
  // As an error message shows it: "x", a list, a map, null.
  std::string describe() const;
};

struct YamlEntry {
  std::string key;
  YamlNode value;
};

// Parses one document. `source` (a file, usually) stands in every place and sentence. Throws
// Error{kConfiguration} for a syntax error, a duplicate or non-scalar key, an anchor, an alias, a
// merge key, a tag, a second document, an unquoted number that looks octal (010) or is not finite
// (.nan, .inf), more than 10,000 nodes, nesting deeper than 50, more than 1 MiB, invalid UTF-8 or
// control characters. An empty text is null.
YamlNode parse_yaml(std::string_view text, const std::string& source);

// Reads and parses a file.
YamlNode read_yaml_file(const std::string& path);

// Parses a value given on one line elsewhere, such as on a command line: all its places are
// `place`.
YamlNode parse_yaml_value(std::string_view text, const std::string& place);

// `text` as a scalar that reads back as exactly this string: plain where that is safe, else quoted.
std::string quote_yaml(std::string_view text);

}  // namespace swiattn
