#include "optim/stochastic_rounding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

namespace swiattn {
namespace {

// Over all draws the mean is the value itself, to the last bit: the sum of 2^16 bfloat16 of one
// magnitude is exact in float64.
TEST(StochasticRoundingTest, TheMeanOverAllDrawsIsTheValue) {
  for (const float value : {0.0F, 1.0F, 1.001F, -1.001F, 0.1F, -3.14159F, 255.99F, 1.9999999F,
                            1e-30F, 3e-39F, -7.3e-20F, 2.5e37F, 1.00390625F}) {
    double sum = 0.0;
    std::set<float> results;
    for (uint32_t draw = 0; draw < 1U << 16; ++draw) {
      const float rounded = round_stochastically(value, draw);
      sum += static_cast<double>(rounded);
      results.insert(rounded);
    }
    EXPECT_EQ(sum / (1 << 16), static_cast<double>(value));
    EXPECT_LE(results.size(), 2U) << value;
  }
}

TEST(StochasticRoundingTest, WhatIsABfloat16AlreadyStays) {
  for (const float value : {0.0F, -0.0F, 1.0F, -1.5F, 0x1.02p-100F, 0x1.fep127F,
                            std::numeric_limits<float>::infinity()}) {
    for (const uint32_t draw : {0U, 1U, 0x8000U, 0xffffU}) {
      EXPECT_EQ(round_stochastically(value, draw), value);
      EXPECT_EQ(std::signbit(round_stochastically(value, draw)), std::signbit(value));
    }
  }
}

// Every counter gives other draws, and they are uniform.
TEST(StochasticRoundingTest, DrawsAreUniformAndTheirCountersMatter) {
  constexpr int kPairs = 20000;
  std::vector<uint64_t> keys;
  for (const uint64_t seed : {1, 2}) {
    for (const uint64_t updates : {1, 2, 3}) {
      for (const uint64_t unit : {0, 1}) keys.push_back(rounding_key(seed, updates, unit));
    }
  }
  std::vector<std::vector<double>> streams;
  for (const uint64_t key : keys) {
    for (const int element : {0, 1}) {
      for (const int moment : {0, 1}) {
        std::vector<double>& draws = streams.emplace_back();
        for (int64_t pair = 0; pair < kPairs; ++pair) {
          draws.push_back(rounding_draw(rounding_word(key, pair), element, moment) / 65536.0 - 0.5 +
                          0x1p-17);
        }
      }
    }
  }
  // Means of products: the variance 1/12 on the diagonal, nothing beside it. Five standard errors.
  for (size_t a = 0; a < streams.size(); ++a) {
    double mean = 0.0;
    for (const double draw : streams[a]) mean += draw / kPairs;
    EXPECT_LT(std::abs(mean), 5 * std::sqrt(1.0 / 12 / kPairs)) << a;
    for (size_t b = a; b < streams.size(); ++b) {
      double product = 0.0;
      for (int i = 0; i < kPairs; ++i) product += streams[a][i] * streams[b][i] / kPairs;
      EXPECT_NEAR(product, a == b ? 1.0 / 12 : 0.0, 5 / 12.0 / std::sqrt(1.0 * kPairs))
          << a << " " << b;
    }
  }
}

}  // namespace
}  // namespace swiattn
