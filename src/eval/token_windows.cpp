#include "eval/token_windows.h"

#include <algorithm>

#include "base/check.h"

namespace swiattn {

std::vector<TokenWindow> cut_windows(int64_t tokens, int64_t length, int64_t stride) {
  SWIATTN_CHECK(length > 0 && stride > 0 && stride <= length, "a window of {} at stride {}", length,
                stride);
  std::vector<TokenWindow> windows;
  const int64_t inputs = tokens - 1;  // the last token is a target only
  int64_t predicted = 0;
  for (int64_t begin = 0; predicted < inputs; begin += stride) {
    const int64_t end = std::min(begin + length, inputs);
    windows.push_back({begin, end, predicted});
    predicted = end;
  }
  return windows;
}

}  // namespace swiattn
