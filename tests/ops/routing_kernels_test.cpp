// The routing kernel against float64 ATen: the router's gradient token by token, and the row of
// sums as src/ops/routing_columns.h defines its columns.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "ops/gpu_kernels.h"
#include "parallel/gpu_stream.h"

namespace swiattn {
namespace {

using S = RoutingStatistics;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kLayers = 22;

at::TensorOptions options(at::ScalarType type) {
  return at::TensorOptions().device(at::kCUDA).dtype(type);
}
template <class T>
const T* data(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

// What a layer knows of its tokens; undefined where it does not.
struct Layer {
  BranchTaken taken = BranchTaken::kRouted;
  at::Tensor route, position, counted;
  at::Tensor logits, disagreement, weight, nll, gate_gradient;
  gpu::RoutingGamma gamma = {};
  int64_t window = 0;
};

struct Routing {
  at::Tensor grad_logits;  // [T]; undefined in an evaluation
  at::Tensor row;          // [S::kColumns]
};

// Everything that is to be written is NaN before.
Routing run(const Layer& layer, bool training) {
  const int64_t tokens = layer.position.size(0);
  const at::Tensor partial =
      at::full({gpu::routing_blocks(), S::kColumns}, kNan, options(at::kDouble));
  Routing found;
  found.row = at::full({S::kColumns}, kNan, options(at::kDouble));
  if (training) found.grad_logits = at::full({tokens}, kNan, options(at::kFloat));
  gpu::routing(
      {layer.taken, data<bool>(layer.route), data<int64_t>(layer.position),
       data<bool>(layer.counted), data<float>(layer.logits), data<float>(layer.disagreement),
       data<float>(layer.weight), data<float>(layer.nll), data<float>(layer.gate_gradient),
       training ? found.grad_logits.mutable_data_ptr<float>() : nullptr, layer.gamma, tokens,
       kLayers, layer.window, partial.mutable_data_ptr<double>(),
       found.row.mutable_data_ptr<double>()},
      current_stream());
  return found;
}

at::Tensor gamma_of(const Layer& layer) {  // [T], 0 where the target does not count
  const gpu::RoutingGamma& g = layer.gamma;
  const at::Tensor counted = layer.counted.to(at::kDouble);
  if (g.constant || g.base == 0.0F) return counted * static_cast<double>(g.base);
  const at::Tensor divisor =
      layer.nll.to(at::kDouble) * static_cast<double>(g.nll_weight) +
      layer.disagreement.to(at::kDouble) * static_cast<double>(g.disagreement_weight) +
      static_cast<double>(g.eps);
  return counted * static_cast<double>(g.base) / divisor;
}

// The factor of a token's terms in what is estimated.
at::Tensor weight_of(const Layer& layer) {
  return layer.weight.defined() ? layer.weight.to(at::kDouble)
                                : at::ones(layer.position.sizes(), options(at::kDouble));
}

// Float32 terms are within a few roundings of 2^-24 each of the exact ones.
constexpr double kFloat32Terms = 1e-6;

void expect_gradient(const Layer& layer, const at::Tensor& found) {
  const at::Tensor p = layer.logits.to(at::kDouble).sigmoid();
  const at::Tensor weight = weight_of(layer);
  const at::Tensor gate =
      weight * layer.gate_gradient.to(at::kDouble) * p * (-layer.logits).to(at::kDouble).sigmoid();
  const at::Tensor regularizer = weight * gamma_of(layer) * p / static_cast<double>(kLayers);
  const at::Tensor error = (found.to(at::kDouble) - (gate + regularizer)).abs();
  const at::Tensor bound = kFloat32Terms * (gate.abs() + regularizer) + 1e-37;
  EXPECT_TRUE(at::le(error, bound).all().item<bool>())
      << "largest error " << error.max().item<double>();
}

void expect_row(const Layer& layer, const at::Tensor& found_on_device) {
  const at::Tensor found = found_on_device.cpu();
  const auto expect = [&](S::Column column, const at::Tensor& terms, double relative) {
    const at::Tensor wide = terms.to(at::kDouble);
    EXPECT_NEAR(found[column].item<double>(), wide.sum().item<double>(),
                relative * wide.abs().sum().item<double>())
        << "column " << column;
  };
  const at::Tensor all = at::ones_like(layer.counted);
  const at::Tensor route = layer.taken == BranchTaken::kRouted ? layer.route
                           : layer.taken == BranchTaken::kFull ? all
                                                               : ~all;
  const at::Tensor visible = layer.position + 1;
  const at::Tensor far = visible > layer.window;
  const at::Tensor none = at::zeros_like(layer.position);
  expect(S::kTokens, all, 0);
  expect(S::kFull, route, 0);
  expect(S::kFarTokens, far, 0);
  expect(S::kFarFull, far.logical_and(route), 0);
  expect(S::kCounted, layer.counted, 0);
  expect(S::kVisiblePairs, at::where(route, visible, visible.clamp_max(layer.window)), 0);
  const at::Tensor weight = weight_of(layer);
  expect(S::kDisagreement, layer.disagreement.defined() ? layer.disagreement * weight : none,
         layer.weight.defined() ? kFloat32Terms : 1e-12);

  const at::Tensor s = (layer.logits.defined() ? layer.logits : none).to(at::kDouble);
  const at::Tensor softplus = at::logaddexp(s, at::zeros_like(s));
  const bool router = layer.logits.defined();
  const at::Tensor gamma = router ? gamma_of(layer) * weight : none;
  expect(S::kLogit, s, 1e-12);
  expect(S::kLogitSquare, s.square(), 1e-12);
  expect(S::kEntropy, router ? softplus - s * s.sigmoid() : none, kFloat32Terms);
  expect(S::kGamma, gamma, kFloat32Terms);
  expect(S::kRegularizer, gamma * softplus, kFloat32Terms);
}

struct Case {
  int64_t tokens, window;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  // 100,003 is more than one token for every thread of the largest launch.
  for (const int64_t tokens : {0, 1, 5, 127, 128, 1000, 4096 + 3, 100003}) {
    for (const int64_t window : {int64_t{1}, int64_t{128}, tokens}) all.push_back({tokens, window});
  }
  return all;
}

class RoutingKernelsTest : public testing::TestWithParam<Case> {
 protected:
  RoutingKernelsTest() { at::manual_seed(11); }

  static at::Tensor normal() { return at::randn({GetParam().tokens}, options(at::kFloat)); }
  static at::Tensor chosen(double ratio) {
    return at::rand({GetParam().tokens}, options(at::kFloat)) < ratio;
  }

  // Documents of 777 tokens, no router.
  static Layer without_router(BranchTaken taken) {
    Layer layer;
    layer.taken = taken;
    layer.position = at::arange(GetParam().tokens, options(at::kLong)).remainder(777);
    layer.counted = chosen(0.8);
    layer.window = GetParam().window;
    return layer;
  }

  // Logits from nothing to far beyond where e^s overflows, in both directions.
  static Layer with_router(const gpu::RoutingGamma& gamma) {
    Layer layer = without_router(BranchTaken::kRouted);
    layer.logits = normal().pow(3) * 5;
    layer.logits.masked_fill_(chosen(0.05), 0.0);
    layer.logits.masked_fill_(chosen(0.02), 1000.0).masked_fill_(chosen(0.02), -1000.0);
    layer.route = layer.logits > 0;
    layer.disagreement = normal().square();
    layer.gate_gradient = normal();
    layer.nll = normal().abs() * layer.counted;
    layer.gamma = gamma;
    return layer;
  }
};

TEST_P(RoutingKernelsTest, TrainingWithEveryRegularizer) {
  for (const gpu::RoutingGamma& gamma :
       {gpu::RoutingGamma{1e-3F, 0.1F, 1.0F, 100.0F, false},    // adaptive
        gpu::RoutingGamma{1e-3F, 0.1F, 0.0F, 100.0F, false},    // no_nll
        gpu::RoutingGamma{1e-3F, 0.1F, 1.0F, 0.0F, false},      // no_disagreement
        gpu::RoutingGamma{1e-3F, 0.1F, 1.0F, 100.0F, true},     // constant
        gpu::RoutingGamma{0.0F, 0.1F, 1.0F, 100.0F, false}}) {  // none
    const Layer layer = with_router(gamma);
    const Routing found = run(layer, /*training=*/true);
    expect_gradient(layer, found.grad_logits);
    expect_row(layer, found.row);

    const Routing again = run(layer, /*training=*/true);
    EXPECT_TRUE(at::equal(again.grad_logits, found.grad_logits));
    EXPECT_TRUE(at::equal(again.row, found.row));
  }
}

// Some tokens sampled, most of them left out with neither disagreement nor gradient.
TEST_P(RoutingKernelsTest, SampledTokensHaveWeights) {
  Layer layer = with_router({1e-3F, 0.1F, 1.0F, 100.0F, false});
  const at::Tensor drawn = chosen(0.1);
  const at::Tensor both = layer.route.logical_or(drawn);
  layer.weight = at::where(layer.route, at::ones_like(layer.nll), 8.5 * drawn).to(at::kFloat);
  layer.disagreement = layer.disagreement * both;
  layer.gate_gradient = layer.gate_gradient * both;
  const Routing found = run(layer, /*training=*/true);
  expect_gradient(layer, found.grad_logits);
  expect_row(layer, found.row);
  EXPECT_EQ(at::count_nonzero(found.grad_logits * ~both).item<int64_t>(), 0);
}

TEST_P(RoutingKernelsTest, ARegularizerAloneNeedsNoGateGradient) {
  Layer layer = with_router({1e-3F, 0.1F, 1.0F, 100.0F, false});
  layer.gate_gradient.reset();
  const Routing found = run(layer, /*training=*/true);
  layer.gate_gradient = at::zeros_like(layer.logits);
  expect_gradient(layer, found.grad_logits);
}

TEST_P(RoutingKernelsTest, EvaluationHasStatisticsAlone) {
  Layer layer = with_router({});
  layer.nll.reset();
  layer.gate_gradient.reset();
  expect_row(layer, run(layer, /*training=*/false).row);
}

TEST_P(RoutingKernelsTest, LayersWithoutRouter) {
  for (const auto taken : {BranchTaken::kFull, BranchTaken::kWindow}) {
    const Layer layer = without_router(taken);
    expect_row(layer, run(layer, /*training=*/false).row);
  }
  Layer drawn = without_router(BranchTaken::kRouted);  // a random gate has both branches
  drawn.route = chosen(0.13);
  drawn.disagreement = normal().square();
  expect_row(drawn, run(drawn, /*training=*/false).row);
  drawn.weight = 3.7 * chosen(0.3).to(at::kFloat);
  expect_row(drawn, run(drawn, /*training=*/false).row);
}

INSTANTIATE_TEST_SUITE_P(All, RoutingKernelsTest, testing::ValuesIn(cases()), [](const auto& info) {
  return fmt::format("{}_tokens_{}_window_{}", info.index, info.param.tokens, info.param.window);
});

}  // namespace
}  // namespace swiattn
