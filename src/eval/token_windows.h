// How documents are cut for evaluation: overlapping windows, every token predicted once.
#pragma once

#include <cstdint>
#include <vector>

namespace swiattn {

// Inputs are tokens [begin, end) of a document, targets the tokens one further; the targets of
// inputs before `counted_from` were predicted by an earlier window and give context only.
struct TokenWindow {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t counted_from = 0;
  int64_t inputs() const { return end - begin; }
};

// The windows of a document of `tokens` tokens: at most `length` inputs each, `stride` apart, so
// that all but the first predict their last `stride` targets with `length - stride` tokens of
// context before them. Empty for a document of one token.
std::vector<TokenWindow> cut_windows(int64_t tokens, int64_t length, int64_t stride);

}  // namespace swiattn
