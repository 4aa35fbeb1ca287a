#include "data/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "base/utf8.h"

namespace swiattn {
namespace {

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kDigits = R"(\p{N}+)";

// Not white space in any version of Unicode: false also where one may doubt it.
bool surely_not_space(char32_t c) {
  if (c < 0x7F) return c > ' ';
  return c > 0xFF && c != 0x1680 && c != 0x180E && !(c >= 0x2000 && c <= 0x206F) && c != 0x3000 &&
         c != 0xFEFF;
}

// Whether the character that ends before `end` is surely no space. `text` may be cut or ill-formed.
bool surely_not_space_before(std::string_view text, size_t end) {
  size_t begin = end;
  while (begin > 0 && end - begin < 4) {
    --begin;
    if ((text[begin] & 0xC0) == 0x80) continue;
    const std::string_view last = text.substr(begin, end - begin);
    size_t offset = 0;
    return valid_utf8_prefix(last) == last.size() &&
           surely_not_space(next_code_point(last, offset));
  }
  return false;
}

// Likewise for the character that begins at `begin`.
bool surely_not_space_at(std::string_view text, size_t begin) {
  const std::string_view next = text.substr(begin, 4);
  size_t offset = 0;
  return valid_utf8_prefix(next) > 0 && surely_not_space(next_code_point(next, offset));
}

}  // namespace

PreTokenizer::PreTokenizer(const JsonCursor& pre_tokenizer, const std::string& source)
    : source_(source) {
  read(pre_tokenizer);
  if (!byte_level_) pre_tokenizer.refuse("a pre-tokenizer that ends in ByteLevel");
  cuttable_ = cuts_are_proven();
}

void PreTokenizer::read(const JsonCursor& component) {
  if (byte_level_) component.refuse("nothing after ByteLevel");
  const std::string type = component["type"].string();
  if (type == "Sequence") {
    const JsonCursor members = component["pretokenizers"];
    for (size_t i = 0; i < members.size(); ++i) read(members.at(i));
  } else if (type == "Split") {
    read_split(component);
  } else if (type == "Digits") {
    const bool individual =
        component.has("individual_digits") && component["individual_digits"].boolean();
    stages_.push_back({Regex(std::string(individual ? kDigit : kDigits), place(component)), true});
  } else if (type == "ByteLevel") {
    read_byte_level(component);
  } else {
    component["type"].refuse("Sequence, Split, Digits or ByteLevel (others are not implemented)");
  }
}

std::string PreTokenizer::place(const JsonCursor& component) const {
  return source_ + ": " + component.path();
}

void PreTokenizer::read_split(const JsonCursor& component) {
  const JsonCursor pattern = component["pattern"];
  if (!pattern.has("Regex")) pattern.refuse("{\"Regex\": …} (others are not implemented)");
  const std::string behavior = component["behavior"].string();
  const bool invert = component.has("invert") && component["invert"].boolean();
  const bool matches_only = behavior == "Removed" && invert;
  if (behavior != "Isolated" && !matches_only) {
    component["behavior"].refuse(
        "\"Isolated\", or \"Removed\" with \"invert\" (others are not "
        "implemented)");
  }
  stages_.push_back({Regex(pattern["Regex"].string(), place(pattern)), !matches_only});
}

void PreTokenizer::read_byte_level(const JsonCursor& component) {
  byte_level_ = true;
  if (component["add_prefix_space"].boolean()) {
    if (!stages_.empty()) {
      component["add_prefix_space"].refuse(
          "false after another pre-tokenizer (true is not "
          "implemented there)");
    }
    add_prefix_space_ = true;
  }
  if (!component.has("use_regex") || component["use_regex"].boolean()) {
    stages_.push_back({Regex(std::string(kGpt2), place(component)), true});
  }
}

void PreTokenizer::split(std::string_view text, Regex::Match& match, const Sink& sink) const {
  if (!text.empty()) split_from(0, text, match, sink);
}

void PreTokenizer::split_from(size_t stage, std::string_view text, Regex::Match& match,
                              const Sink& sink) const {
  if (stage == stages_.size()) return sink(text);
  const Stage& here = stages_[stage];
  size_t done = 0;
  while (done < text.size() && here.regex.find(text, done, match)) {
    const size_t begin = match.begin();
    const size_t end = match.end();  // read now: later stages write to `match` too
    if (here.keep_gaps && begin > done) {
      split_from(stage + 1, text.substr(done, begin - done), match, sink);
    }
    split_from(stage + 1, text.substr(begin, end - begin), match, sink);
    done = end;
  }
  if (here.keep_gaps && done < text.size()) split_from(stage + 1, text.substr(done), match, sink);
}

// The three patterns have no look-behind, so what follows the end of a pre-token is split as if the
// text began there; it remains to see that a pre-token ends at the cut, also when the text does.
//
// Before a space that follows something else: in all three a pre-token takes a space only as its
// first character or inside a run of white space, and runs end at the cut in either case.
//
// After a single line feed between two characters that are no white space: GPT-2 takes it by itself
// (`\s+`, or `\s+(?!\S)` at the end of a text); the others take it by itself or at the end of the
// punctuation before it, and `[\r\n]*` finds nothing more to take.
//
// Digits cuts around each digit, or each run of them, whatever surrounds it.
bool PreTokenizer::cuts_are_proven() const {
  constexpr std::array kBases = {kGpt2, kLlama3, kQwen2};
  bool base_seen = false;
  for (const Stage& stage : stages_) {
    const std::string_view pattern = stage.regex.pattern();
    const bool is_base = std::find(kBases.begin(), kBases.end(), pattern) != kBases.end();
    if (is_base ? base_seen : pattern != kDigit && pattern != kDigits) return false;
    base_seen |= is_base;
  }
  return base_seen && !add_prefix_space_;
}

size_t PreTokenizer::last_cut(std::string_view text) const {
  if (!cuttable_) return 0;
  for (size_t n = text.empty() ? 0 : text.size() - 1; n > 0; --n) {
    if (text[n] == ' ' && surely_not_space_before(text, n)) return n;
    if (text[n - 1] == '\n' && surely_not_space_before(text, n - 1) &&
        surely_not_space_at(text, n)) {
      return n;
    }
  }
  return 0;
}

}  // namespace swiattn
