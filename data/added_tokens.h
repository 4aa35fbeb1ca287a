// The tokens that tokenizer.json lists outside the model ("<|endoftext|>"): they are cut out of the
// text before anything else looks at it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace swiattn {

// Finds the leftmost, and there the longest, of some fixed texts. Immutable once filled.
class AddedTokens {
 public:
  struct Found {
    size_t begin = 0;
    size_t end = 0;  // 0: nothing was found
    int32_t id = -1;
  };

  // `content` must not be empty.
  void add(std::string content, int32_t id);

  // The first token in `text` that begins at `offset` or later.
  Found find(std::string_view text, size_t offset) const;

 private:
  struct Token {
    std::string content;
    int32_t id;
  };
  std::array<std::vector<Token>, 256> by_first_byte_;  // the longest first
};

}  // namespace swiattn
