// Splits text into pre-tokens, the pieces inside which byte-pair merges happen.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "data/regex.h"

namespace swiattn {

// The `pre_tokenizer` of a tokenizer.json: Split, Digits and ByteLevel, alone or in a Sequence that
// ends in ByteLevel. Each of them cuts every piece of the one before with a regular expression.
class PreTokenizer {
 public:
  // Throws Error{kData} naming the component or option of the file `source` that is not
  // implemented.
  PreTokenizer(const JsonCursor& pre_tokenizer, const std::string& source);

  using Sink = std::function<void(std::string_view)>;

  // Hands the pre-tokens of `text` to `sink`, in order; none is empty. `match` is working memory.
  void split(std::string_view text, Regex::Match& match, const Sink& sink) const;

  // Whether a piece of text that does not begin with a space gets one.
  bool add_prefix_space() const { return add_prefix_space_; }

  // Where a text may be cut without changing its pre-tokens, whatever follows `text`: the largest
  // such n with 0 < n < text.size(), or 0.
  size_t last_cut(std::string_view text) const;

 private:
  struct Stage {
    Regex regex;
    bool keep_gaps;  // what lies between matches is a piece too
  };

  void read(const JsonCursor& component);
  void read_split(const JsonCursor& component);
  void read_byte_level(const JsonCursor& component);
  std::string place(const JsonCursor& component) const;
  void split_from(size_t stage, std::string_view text, Regex::Match& match, const Sink& sink) const;
  bool cuts_are_proven() const;

  std::string source_;
  std::vector<Stage> stages_;
  bool add_prefix_space_ = false;
  bool byte_level_ = false;  // seen; it must be the last
  bool cuttable_ = false;
};

}  // namespace swiattn
