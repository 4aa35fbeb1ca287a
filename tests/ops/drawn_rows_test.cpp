// Draws for tokens: each with its probability, whatever else is drawn with it, and the weights that
// make up for those that were not drawn.
#include "ops/drawn_rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "drawn_cases.h"

namespace swiattn {
namespace {

// The probability of every token to get both branches though it takes the window.
at::Tensor probability(const FarSampling& sampling, const GatedTokens& gated) {
  const at::Tensor p = gated.logits.defined()
                           ? gated.logits.to(at::kDouble).sigmoid()
                           : at::full(gated.route.sizes(), gated.ratio, at::kDouble);
  return (sampling.scale * p * (1 - p)).clamp(sampling.minimum, 1.0);
}

TEST(DrawnRowsTest, MarksRoutedAndDrawnTokensThatHaveFarKeys) {
  for (const DrawnCase& c : drawn_cases()) {
    for (const FarSampling& sampling : samplings()) {
      const SampledRows rows = reference::sample_rows(c.tokens, sampling, c.gated);
      const at::Tensor far = c.gated.position >= c.gated.window;
      const at::Tensor window = far.logical_and(~c.gated.route);
      EXPECT_TRUE(at::equal(rows.both, far.logical_and(rows.weight != 0)));
      EXPECT_TRUE((rows.weight == 1).logical_or(window).all().item<bool>());
      const at::Tensor drawn = window.logical_and(rows.both);
      const at::Tensor expected = probability(sampling, c.gated).reciprocal();
      const at::Tensor error = (rows.weight.to(at::kDouble) / expected - 1).abs();
      EXPECT_TRUE((error < 1e-6).logical_or(~drawn).all().item<bool>());
      EXPECT_EQ(rows.weight.scalar_type(), at::kFloat);
    }
  }
}

TEST(DrawnRowsTest, DrawsEveryTokenWithItsProbability) {
  for (const double logit : {-20.0, -2.0, 0.0}) {
    for (const FarSampling& sampling : samplings()) {
      constexpr int64_t kTokens = 200'000;
      DrawnTokens tokens{3, 1, at::arange(20, at::kLong), kTokens / 20};
      const GatedTokens gated{at::full({kTokens}, logit), 0.0, at::zeros({kTokens}, at::kBool),
                              at::full({kTokens}, 5, at::kLong), 5};
      const SampledRows rows = reference::sample_rows(tokens, sampling, gated);
      const double expected = probability(sampling, gated)[0].item<double>();
      const double share = rows.both.sum().item<double>() / kTokens;
      const double error = std::sqrt(expected * (1 - expected) / kTokens);
      EXPECT_NEAR(share, expected, 4.5 * error + 1e-12);
      EXPECT_NEAR(rows.weight.mean().item<double>(), 1.0, 4.5 * error / expected + 1e-6);
    }
  }
}

// Neighbours of every kind get other draws: another seed, layer, sample or position.
TEST(DrawnRowsTest, DrawsAreIndependent) {
  const DrawnTokens base{3, 1, at::arange(40, at::kLong), 500};
  const auto gate = [](const DrawnTokens& tokens) {
    return reference::draw_rows(tokens, 0.3).to(at::kDouble) - 0.3;
  };
  const auto sampled = [](const DrawnTokens& tokens) {
    const int64_t count = tokens.tokens();
    const GatedTokens gated{
        {}, 0.3, at::zeros({count}, at::kBool), at::full({count}, 5, at::kLong), 5};
    return reference::sample_rows(tokens, {0.3, 0.0}, gated).both.to(at::kDouble) - 0.3;
  };
  DrawnTokens seed = base, layer = base, sample = base;
  ++seed.seed;
  ++layer.layer;
  sample.samples = base.samples + 1000;
  const at::Tensor draws = sampled(base);
  for (const at::Tensor& other : {sampled(seed), sampled(layer), sampled(sample), draws.roll({1}),
                                  draws.roll({500}), gate(base)}) {
    EXPECT_LT(std::abs((draws * other).mean().item<double>()), 4.5 * 0.21 / std::sqrt(20'000.0));
  }
}

TEST(DrawnRowsTest, ASampleIsDrawnAlikeWhereverItLies) {
  for (const bool with_logits : {true, false}) {
    const DrawnCase whole = drawn_case(4, 100, with_logits);
    const SampledRows rows = reference::sample_rows(whole.tokens, {}, whole.gated);
    const at::Tensor gate = reference::draw_rows(whole.tokens, 0.4);
    for (int64_t b = 0; b < 4; ++b) {
      const auto part = [&](const at::Tensor& x) {
        return x.defined() ? x.narrow(0, 100 * b, 100) : x;
      };
      DrawnTokens tokens = whole.tokens;
      tokens.samples = tokens.samples.narrow(0, b, 1);
      GatedTokens gated = whole.gated;
      gated.logits = part(gated.logits);
      gated.route = part(gated.route);
      gated.position = part(gated.position);
      const SampledRows alone = reference::sample_rows(tokens, {}, gated);
      EXPECT_TRUE(at::equal(alone.both, part(rows.both)));
      EXPECT_TRUE(at::equal(alone.weight, part(rows.weight)));
      EXPECT_TRUE(at::equal(reference::draw_rows(tokens, 0.4), part(gate)));
    }
  }
}

// The bits of earlier versions: runs with a random gate go on as they began.
TEST(DrawnRowsTest, ARandomGateIsAHashOfSeedLayerSampleAndPosition) {
  const DrawnTokens tokens{99, 2, at::tensor({5L, 1L << 40}, at::kLong), 64};
  const at::Tensor rows = reference::draw_rows(tokens, 0.3);
  for (int64_t t = 0; t < 128; ++t) {
    const auto sample = static_cast<uint64_t>(t < 64 ? 5 : 1L << 40);
    const uint64_t bits = counter_bits({99, 2, sample, static_cast<uint64_t>(t % 64)});
    EXPECT_EQ(rows[t].item<bool>(), uniform_from_bits(bits) < 0.3);
  }
  EXPECT_FALSE(reference::draw_rows(tokens, 0.0).any().item<bool>());
  EXPECT_TRUE(reference::draw_rows(tokens, 1.0).all().item<bool>());
}

}  // namespace
}  // namespace swiattn
