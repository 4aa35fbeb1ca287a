#include "base/counter_random.h"

#include <gtest/gtest.h>

#include <cmath>

namespace swiattn {
namespace {

TEST(CounterRandom, MixBitsIsTheSequenceOfSplitMix64) {
  // The first outputs of the reference generator seeded with 0 and with 0x9e3779b97f4a7c15.
  EXPECT_EQ(mix_bits(0), 0xe220a8397b1dcdafULL);
  EXPECT_EQ(mix_bits(0x9e3779b97f4a7c15ULL), 0x6e789e6aa1b965f4ULL);
}

TEST(CounterRandom, BitsDependOnEveryCounterAndTheirOrder) {
  EXPECT_EQ(counter_bits({1, 2, 3}), counter_bits({1, 2, 3}));
  EXPECT_NE(counter_bits({1, 2, 3}), counter_bits({1, 3, 2}));
  EXPECT_NE(counter_bits({1, 2}), counter_bits({1, 2, 0}));
  EXPECT_NE(counter_bits({0}), counter_bits({}));
}

TEST(CounterRandom, UniformsStayBelowOneEvenAtTheLargestBits) {
  EXPECT_EQ(uniform_from_bits(0), 0.0);
  EXPECT_LT(uniform_from_bits(~0ULL), 1.0);
}

TEST(CounterRandom, UniformsHaveTheMomentsOfTheUniformDistribution) {
  const int count = 100000;
  double sum = 0, squares = 0;
  for (uint64_t n = 0; n < count; ++n) {
    const double value = uniform_from_bits(counter_bits({7, n}));
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / count, 0.5, 0.005);  // five standard errors
  EXPECT_NEAR(squares / count, 1.0 / 3.0, 0.005);
}

TEST(CounterRandom, NormalsHaveTheMomentsOfTheNormalDistribution) {
  const int count = 100000;
  double sum = 0, squares = 0, fourths = 0;
  for (uint64_t n = 0; n < count; ++n) {
    const double value = normal_from_bits(counter_bits({7, n, 0}), counter_bits({7, n, 1}));
    ASSERT_TRUE(std::isfinite(value));
    sum += value;
    squares += value * value;
    fourths += value * value * value * value;
  }
  EXPECT_NEAR(sum / count, 0.0, 0.016);
  EXPECT_NEAR(squares / count, 1.0, 0.025);
  EXPECT_NEAR(fourths / count, 3.0, 0.16);
}

TEST(CounterRandom, TheNormalOfTheLargestBitsIsFinite) {
  EXPECT_TRUE(std::isfinite(normal_from_bits(~0ULL, ~0ULL)));
}

}  // namespace
}  // namespace swiattn
