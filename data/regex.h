// The regular expressions of tokenizer.json files, run by PCRE2.
//
// These files are written for Oniguruma. Both engines read what tokenizers use alike, except that
// PCRE2's \s takes U+180E for a space: \s is therefore spelt out before compiling. Whatever else
// the engines could read differently (\h, \w, ^, $, look-behind, possessive {}, …) is refused by
// name. Letters and digits are those of the Unicode version of the installed PCRE2 (14 in 10.42).
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace swiattn {

class Regex {
 public:
  // Throws Error{kData} beginning with `place` (a file and key) when the pattern does not compile,
  // uses something that is refused, or could match the empty string.
  Regex(const std::string& pattern, const std::string& place);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // The memory that a search writes to: one for each thread.
  class Match {
   public:
    Match();
    ~Match();
    Match(const Match&) = delete;
    Match& operator=(const Match&) = delete;
    size_t begin() const;
    size_t end() const;

   private:
    friend class Regex;
    struct State;
    std::unique_ptr<State> state_;
  };

  // Finds the first match in `text` that begins at `offset` or later. `text` must be UTF-8. Throws
  // Error{kData} when the search exceeds PCRE2's limits.
  bool find(std::string_view text, size_t offset, Match& match) const;

  // The pattern as the file has it.
  const std::string& pattern() const { return pattern_; }

 private:
  struct Code;
  std::string pattern_;
  std::unique_ptr<Code> code_;
};

}  // namespace swiattn
