#include "eval/token_windows.h"

#include <gtest/gtest.h>

namespace swiattn {
namespace {

TEST(TokenWindowsTest, EveryTargetIsCountedOnceWithTheContextThatTheStrideLeaves) {
  for (const int64_t tokens : {2, 3, 9, 10, 11, 100}) {
    for (const int64_t length : {1, 2, 7, 10, 200}) {
      for (int64_t stride = 1; stride <= length; stride += 3) {
        int64_t counted = 0;
        for (const TokenWindow& window : cut_windows(tokens, length, stride)) {
          EXPECT_EQ(window.counted_from, counted);
          EXPECT_LE(window.inputs(), length);
          EXPECT_LE(window.begin, window.counted_from);
          EXPECT_LT(window.counted_from, window.end);
          if (window.begin > 0) {
            EXPECT_LE(window.end - window.counted_from, stride);
          }
          counted = window.end;
        }
        EXPECT_EQ(counted, tokens - 1);
      }
    }
  }
}

TEST(TokenWindowsTest, ADocumentOfOneTokenHasNothingToPredict) {
  EXPECT_TRUE(cut_windows(1, 8, 8).empty());
}

}  // namespace
}  // namespace swiattn
