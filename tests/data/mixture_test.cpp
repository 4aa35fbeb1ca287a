#include "data/mixture.h"

#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/base/expect_error.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<size_t> first_sources(Mixture mixture, int64_t count) {
  std::vector<size_t> sources;
  for (int64_t n = 0; n < count; ++n) sources.push_back(mixture.draw(n).source);
  return sources;
}

TEST(Mixture, DrawsFromTheSourceThatIsFurthestBehindItsShare) {
  EXPECT_THAT(first_sources(Mixture({1.0}), 3), ElementsAre(0, 0, 0));
  EXPECT_THAT(first_sources(Mixture({1.0, 1.0}), 4), ElementsAre(0, 1, 0, 1));
  EXPECT_THAT(first_sources(Mixture({0.7, 0.2, 0.1}), 10),
              ElementsAre(0, 0, 1, 0, 0, 2, 0, 0, 1, 0));
  EXPECT_THAT(first_sources(Mixture({0.1, 0.9}), 10), ElementsAre(1, 1, 1, 1, 0, 1, 1, 1, 1, 1));
}

TEST(Mixture, OnlyTheProportionsOfTheWeightsMatter) {
  const auto expected = first_sources(Mixture({0.25, 0.5, 0.125}), 1000);
  EXPECT_EQ(first_sources(Mixture({2, 4, 1}), 1000), expected);
  EXPECT_EQ(first_sources(Mixture({2e12, 4e12, 1e12}), 1000), expected);
  EXPECT_EQ(first_sources(Mixture({2e-12, 4e-12, 1e-12}), 1000), expected);
}

// The rule as it is defined, replayed in whole numbers.
TEST(Mixture, IsThePlainRuleForSharesThatAreFractionsAcrossManyBlocks) {
  const std::vector<std::vector<int64_t>> cases = {
      {1, 1, 1}, {7, 2, 1}, {3, 1}, {1000, 999, 1}, {5, 4, 3, 2, 1}, {400'000, 300'001}};
  for (const auto& weights : cases) {
    const int64_t total = std::accumulate(weights.begin(), weights.end(), int64_t{0});
    Mixture mixture(std::vector<double>(weights.begin(), weights.end()));
    std::vector<int64_t> drawn(weights.size());
    for (int64_t n = 0; n < 3'000'000; ++n) {
      size_t expected = 0;
      const auto deficit = [&](size_t i) { return (n + 1) * weights[i] - drawn[i] * total; };
      for (size_t i = 1; i < weights.size(); ++i) {
        if (deficit(i) > deficit(expected)) expected = i;
      }
      const Mixture::Draw draw = mixture.draw(n);
      ASSERT_EQ(draw.source, expected) << "sample " << n;
      ASSERT_EQ(draw.number, drawn[expected]) << "sample " << n;
      ++drawn[expected];
    }
  }
}

// With up to three sources within one sample; the rule promises less for more of them.
TEST(Mixture, EverySourceStaysNearItsShareAcrossBlocks) {
  const std::vector<std::vector<double>> cases = {
      {1, 1},
      {0.7, 0.3},
      {1 / 3.0, 2 / 3.0},
      {std::sqrt(2), 1},
      {0.6, 0.3, 0.1},
      {std::sqrt(2), std::sqrt(3), std::sqrt(5)},
      {1, 253, 253},
      {0.31, 0.27, 0.22, 0.2},
      {3.14159265, 2.71828183, 1.61803399, 0.57721567, 0.1},
      {123456789, 23456789, 3456789, 456789},
      {1, 1, 1, 1, 1, 1, 1, 1},
      {1e-6, 1 - 1e-6},
      {1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1}};
  for (const auto& weights : cases) {
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    Mixture mixture(weights);
    std::vector<int64_t> drawn(weights.size());
    double furthest = 0;
    for (int64_t n = 0; n < 3'500'000; ++n) {
      const Mixture::Draw draw = mixture.draw(n);
      ASSERT_EQ(draw.number, drawn[draw.source]++);
      if (n % 7 != 0 && n % (1 << 20) > 1000 && n % (1 << 20) < (1 << 20) - 1000) continue;
      for (size_t i = 0; i < weights.size(); ++i) {
        const double share = static_cast<double>(n + 1) * (weights[i] / sum);
        furthest = std::max(furthest, std::abs(static_cast<double>(drawn[i]) - share));
      }
    }
    EXPECT_LT(furthest, weights.size() <= 3 ? 1.0 : 1.5) << ::testing::PrintToString(weights);
  }
}

TEST(Mixture, AnySampleFoundDirectlyIsTheOneFoundInOrder) {
  for (const auto& weights : std::vector<std::vector<double>>{
           {1}, {0.7, 0.3}, {std::sqrt(2), 1, 0.3}, {5, 3, 2, 1}, {1, 2e-6}}) {
    Mixture in_order(weights);
    std::vector<Mixture::Draw> draws;
    for (int64_t n = 0; n < 2'200'000; ++n) draws.push_back(in_order.draw(n));
    const std::vector<int64_t> places = {2'199'999, 0,         1,         1'048'576, 1'048'575,
                                         1'048'577, 2'097'152, 2'097'151, 17,        1'500'000};
    Mixture jumping(weights);
    for (int64_t n : places) {
      Mixture fresh(weights);
      for (Mixture* mixture : {&fresh, &jumping}) {
        const Mixture::Draw draw = mixture->draw(n);
        EXPECT_EQ(draw.source, draws[static_cast<size_t>(n)].source) << "sample " << n;
        EXPECT_EQ(draw.number, draws[static_cast<size_t>(n)].number) << "sample " << n;
      }
    }
  }
}

TEST(Mixture, AFarSampleIsFoundAtOnce) {
  std::vector<double> weights;
  for (int i = 1; i <= 16; ++i) weights.push_back(std::sqrt(i));
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t n : {int64_t{100'000'000}, int64_t{1} << 40}) {
    Mixture mixture(weights);
    const Mixture::Draw draw = mixture.draw(n);
    const double share =
        weights[draw.source] / std::accumulate(weights.begin(), weights.end(), 0.0);
    EXPECT_NEAR(static_cast<double>(draw.number) / static_cast<double>(n), share, 1e-7);
  }
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
  fmt::print("samples 1e8 and 2^40 of 16 sources found in {:.1f} ms\n", took.count());
}

TEST(Mixture, RefusesWeightsThatAreNoUsefulShares) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (double bad : {0.0, -1.0, 1e-9, infinity, std::nan("")}) {
    EXPECT_THAT(sentence_of(ExitCode::kConfiguration,
                            [bad] {
                              Mixture({1.0, bad});
                            }),
                HasSubstr("data.sources"));
  }
  sentence_of(ExitCode::kConfiguration, [] { Mixture({0.0}); });
  sentence_of(ExitCode::kConfiguration, [] { Mixture({0.0, 0.0}); });
}

}  // namespace
}  // namespace swiattn
