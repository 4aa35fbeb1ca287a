// Every reference operation in float64: its forward against the formula written out, its backward
// against autograd of that formula.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "ops/operations.h"

namespace swiattn {
namespace {

const Operations& ops() { return reference_operations(); }

at::Tensor random(at::IntArrayRef shape) { return at::randn(shape, at::kDouble); }
at::Tensor leaf(at::IntArrayRef shape) { return random(shape).requires_grad_(true); }

void expect_equal(const at::Tensor& found, const at::Tensor& expected) {
  ASSERT_EQ(found.sizes(), expected.sizes());
  EXPECT_LT((found - expected).abs().max().item<double>(), 1e-10);
}

// `run(target)` contributes a gradient: written over anything, and added to what is there.
template <class Run>
void expect_gradient(const at::Tensor& expected, const Run& run) {
  const at::Tensor written = at::full_like(expected, std::numeric_limits<double>::quiet_NaN());
  run(GradientTarget{written, GradientSum::kWrite});
  expect_equal(written, expected);
  const at::Tensor added = at::ones_like(expected);
  run(GradientTarget{added, GradientSum::kAdd});
  expect_equal(added - 1, expected);
}

class ReferenceOperationsTest : public testing::Test {
 protected:
  ReferenceOperationsTest() { at::manual_seed(11); }
};

TEST_F(ReferenceOperationsTest, RmsNormNormalisesRows) {
  const at::Tensor x = leaf({7, 10}), weight = leaf({10});
  const double eps = 1e-3;
  const at::Tensor normed = x / (x.square().mean(-1, true) + eps).sqrt() * weight;
  const at::Tensor grad_normed = random({7, 10}), grad_residual = random({7, 10});
  (normed * grad_normed).sum().backward();

  const RmsNormOutput out = ops().rms_norm_forward(x.detach(), weight.detach(), eps);
  expect_equal(out.normed, normed.detach());
  const auto backward = [&](const at::Tensor& grad, const GradientTarget& grad_weight) {
    return ops().rms_norm_backward(grad_normed, grad, x.detach(), weight.detach(), out.inverse_rms,
                                   grad_weight);
  };
  expect_equal(backward({}, {}), x.grad());
  expect_gradient(weight.grad(), [&](const GradientTarget& grad_weight) {
    expect_equal(backward(grad_residual, grad_weight), x.grad() + grad_residual);
  });
}

TEST_F(ReferenceOperationsTest, LinearAddIsTheStreamAndTheProduct) {
  const at::Tensor stream = random({9, 4}), x = random({9, 5}), weight = random({4, 5});
  expect_equal(ops().linear_add(stream, x, weight), stream + x.matmul(weight.t()));
}

TEST_F(ReferenceOperationsTest, LinearWithAndWithoutBias) {
  for (const bool with_bias : {false, true}) {
    const at::Tensor x = leaf({9, 5}), weight = leaf({4, 5}), bias = leaf({4});
    at::Tensor y = x.matmul(weight.t());
    if (with_bias) y = y + bias;
    const at::Tensor grad = random({9, 4});
    (y * grad).sum().backward();

    const at::Tensor no_tensor;
    expect_equal(
        ops().linear_forward(x.detach(), weight.detach(), with_bias ? bias.detach() : no_tensor),
        y.detach());
    const auto backward = [&](const GradientTarget& grad_weight, const GradientTarget& grad_bias) {
      expect_equal(ops().linear_backward(grad, x.detach(), weight.detach(), grad_weight, grad_bias),
                   x.grad());
    };
    expect_gradient(weight.grad(), [&](const GradientTarget& target) { backward(target, {}); });
    if (with_bias) {
      expect_gradient(bias.grad(), [&](const GradientTarget& target) { backward({}, target); });
    }
    expect_equal(ops().linear_input_gradient(grad, weight.detach()), x.grad());
    expect_gradient(weight.grad(), [&](const GradientTarget& target) {
      ops().linear_weight_gradient(grad, x.detach(), target);
    });
  }
}

TEST_F(ReferenceOperationsTest, EmbeddingAddsTheGradientsOfRepeatedTokens) {
  const at::Tensor table = leaf({6, 3});
  const at::Tensor ids = at::tensor({2, 5, 2, 0, 2}, at::kLong);
  const at::Tensor rows = table.index_select(0, ids);
  const at::Tensor grad = random({5, 3});
  (rows * grad).sum().backward();

  expect_equal(ops().embedding_forward(table.detach(), ids), rows.detach());
  expect_gradient(table.grad(), [&](const GradientTarget& target) {
    ops().embedding_backward(grad, ids, target);
  });
}

TEST_F(ReferenceOperationsTest, RotaryTurnsThePairsOfBothHalves) {
  const at::Tensor positions = at::tensor({0, 1, 2, 7, 0, 1}, at::kInt);
  const std::vector<double> frequencies = {1.0, 0.3, 0.01};
  const double factor = 1.2;  // YaRN's
  const RotaryTable table = make_rotary_table(positions, frequencies, factor, at::kDouble);
  const at::Tensor x = leaf({6, 2, 6});
  const at::Tensor angles =
      (positions.to(at::kDouble).view({-1, 1}) * at::tensor(frequencies, at::kDouble))
          .unsqueeze(1);  // [T, 1, 3]
  const at::Tensor a = x.narrow(-1, 0, 3), b = x.narrow(-1, 3, 3);
  const at::Tensor y =
      factor *
      at::cat({a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()}, -1);
  const at::Tensor grad = random({6, 2, 6});
  (y * grad).sum().backward();

  const at::Tensor turned = x.detach().clone();
  ops().apply_rotary(turned, table, RotaryDirection::kForward);
  expect_equal(turned, y.detach());
  ops().apply_rotary(grad, table, RotaryDirection::kBackward);
  expect_equal(grad, x.grad());
}

// Heads 1 to 3 of five in the packed projection.
at::Tensor some_heads(const at::Tensor& packed, int64_t head_dim) {
  return packed.narrow(1, head_dim, 3 * head_dim).unflatten(1, {3, head_dim});
}

TEST_F(ReferenceOperationsTest, HeadNormNormsAndTurnsRowsInPlaceAndNoOthers) {
  for (const int64_t tokens : {1, 7}) {
    const at::Tensor positions = at::arange(tokens) * 3;
    const RotaryTable table = make_rotary_table(positions, {1.0, 0.3, 0.01}, 1.2, at::kDouble);
    const at::Tensor packed = leaf({tokens, 30}), weight = leaf({6});
    const double eps = 1e-3;
    const at::Tensor x = some_heads(packed, 6);
    const at::Tensor normed = x / (x.square().mean(-1, true) + eps).sqrt() * weight;
    const at::Tensor a = normed.narrow(-1, 0, 3), b = normed.narrow(-1, 3, 3),
                     cosine = table.cosine.unsqueeze(1), sine = table.sine.unsqueeze(1);
    const at::Tensor y = at::cat({a * cosine - b * sine, b * cosine + a * sine}, -1);
    const at::Tensor grad = random({tokens, 30});
    (y * some_heads(grad, 6)).sum().backward();

    const at::Tensor found = packed.detach().clone(), expected = packed.detach().clone();
    some_heads(expected, 6).copy_(y.detach());
    const at::Tensor before =
        ops().head_norm_forward(some_heads(found, 6), weight.detach(), eps, table);
    expect_equal(found, expected);
    EXPECT_TRUE(at::equal(before, x.detach()));
    EXPECT_TRUE(before.is_contiguous());

    const at::Tensor expected_grad = grad.clone();
    some_heads(expected_grad, 6).copy_(some_heads(packed.grad(), 6));
    expect_gradient(weight.grad(), [&](const GradientTarget& target) {
      const at::Tensor found_grad = grad.clone();
      ops().head_norm_backward(some_heads(found_grad, 6), before, weight.detach(), eps, table,
                               target);
      expect_equal(found_grad, expected_grad);
    });
  }
}

// A head's norm and its turn are those operations, one after the other.
TEST_F(ReferenceOperationsTest, HeadNormHasTheBitsOfItsTwoOperations) {
  const RotaryTable table = make_rotary_table(at::arange(9), {1.0, 0.1}, 1.0, at::kFloat);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor packed = random({9, 20}).to(type), weight = random({4}).to(type);
    const at::Tensor rows = some_heads(packed, 4).clone(at::MemoryFormat::Contiguous);
    const RmsNormOutput norm = ops().rms_norm_forward(rows.view({-1, 4}), weight, 1e-6);
    const at::Tensor turned = norm.normed.clone().view({9, 3, 4});
    ops().apply_rotary(turned, table, RotaryDirection::kForward);
    const at::Tensor found = packed.clone();
    const at::Tensor before = ops().head_norm_forward(some_heads(found, 4), weight, 1e-6, table);
    EXPECT_TRUE(at::equal(some_heads(found, 4), turned)) << type;
    EXPECT_TRUE(at::equal(before, rows)) << type;

    const at::Tensor grad = random({9, 20}).to(type);
    const at::Tensor grad_rows = some_heads(grad, 4).clone(at::MemoryFormat::Contiguous);
    ops().apply_rotary(grad_rows, table, RotaryDirection::kBackward);
    const GradientTarget expected{at::ones({4}, at::kFloat)}, target{at::ones({4}, at::kFloat)};
    const at::Tensor grad_x = ops().rms_norm_backward(
        grad_rows.view({-1, 4}), {}, rows.view({-1, 4}), weight, norm.inverse_rms, expected);
    ops().head_norm_backward(some_heads(grad, 4), before, weight, 1e-6, table, target);
    EXPECT_TRUE(at::equal(some_heads(grad, 4), grad_x.view({9, 3, 4}))) << type;
    EXPECT_TRUE(at::equal(target.tensor, expected.tensor)) << type;
  }
}

TEST_F(ReferenceOperationsTest, SwigluOfThePackedProjection) {
  const at::Tensor gate_up = leaf({5, 14});
  const at::Tensor gate = gate_up.narrow(1, 0, 7), up = gate_up.narrow(1, 7, 7);
  const at::Tensor y = gate * gate.sigmoid() * up;
  const at::Tensor grad = random({5, 7});
  (y * grad).sum().backward();

  expect_equal(ops().swiglu_forward(gate_up.detach()), y.detach());
  const SwigluGradients gradients = ops().swiglu_backward(grad, gate_up.detach());
  expect_equal(gradients.gate_up, gate_up.grad());
  EXPECT_TRUE(at::equal(gradients.activated, ops().swiglu_forward(gate_up.detach())));
}

TEST_F(ReferenceOperationsTest, TheRouterReadsTheNormedRowsAndItsGradientGoesThroughTheNorm) {
  const at::Tensor x = leaf({8, 6}), norm_weight = leaf({6}), router_weight = leaf({1, 6});
  const at::Tensor hidden = x / (x.square().mean(-1, true) + 1e-5).sqrt() * norm_weight;
  const at::Tensor logits = hidden.matmul(router_weight.flatten());
  const at::Tensor grad_logits = random({8}), grad_hidden = random({8, 6}),
                   grad_residual = random({8, 6});
  ((logits * grad_logits).sum() + (hidden * grad_hidden + x * grad_residual).sum()).backward();

  const RoutedNormOutput out =
      ops().routed_norm_forward(x.detach(), norm_weight.detach(), 1e-5, router_weight.detach());
  expect_equal(out.norm.normed, hidden.detach());
  expect_equal(out.logits, logits.detach());
  const auto backward = [&](const GradientTarget& grad_norm, const GradientTarget& grad_router) {
    expect_equal(ops().routed_norm_backward(grad_hidden, grad_logits, grad_residual, x.detach(),
                                            out.norm, norm_weight.detach(), router_weight.detach(),
                                            grad_norm, grad_router),
                 x.grad());
  };
  expect_gradient(norm_weight.grad(), [&](const GradientTarget& target) { backward(target, {}); });
  expect_gradient(router_weight.grad(),
                  [&](const GradientTarget& target) { backward({}, target); });
}

// One regularizer; that gamma follows its coefficients is tests/model's to judge.
TEST_F(ReferenceOperationsTest, RoutingCountsTokensAndDifferentiatesGateAndRegularizer) {
  const int64_t count = 40, window = 5, layers = 3;
  const at::Tensor logits = leaf({count});
  RoutedTokens tokens;
  tokens.position = at::arange(count).remainder(13);
  tokens.counted = at::rand({count}) < 0.8;
  tokens.logits = logits.detach();
  tokens.route = tokens.logits > 0;
  tokens.disagreement = random({count}).square();
  tokens.window = window;
  const at::Tensor nll = random({count}).abs(), grad_gate = random({count});
  const GammaCoefficients coefficients{0.3, 0.1, 1.0, 2.0, false};
  const at::Tensor gamma = 0.3 / (nll + 2.0 * tokens.disagreement + 0.1) * tokens.counted;
  const at::Tensor softplus = at::log1p(at::exp(logits));
  ((gamma * softplus).sum() / double(layers) + (logits.sigmoid() * grad_gate).sum()).backward();

  using S = RoutingStatistics;
  const auto column = [](const at::Tensor& row, S::Column which) {
    return row[which].item<double>();
  };
  const at::Tensor row = at::full({S::kColumns}, std::numeric_limits<double>::quiet_NaN());
  const at::Tensor wide = row.to(at::kDouble);
  expect_equal(ops().router_gradient(tokens, {coefficients, nll, layers}, grad_gate, wide),
               logits.grad());
  const at::Tensor far = tokens.position >= window;
  const at::Tensor visible = tokens.position + 1, p = logits.detach().sigmoid();
  EXPECT_EQ(column(wide, S::kTokens), count);
  EXPECT_EQ(column(wide, S::kFull), tokens.route.sum().item<double>());
  EXPECT_EQ(column(wide, S::kFarTokens), far.sum().item<double>());
  EXPECT_EQ(column(wide, S::kFarFull), (far * tokens.route).sum().item<double>());
  EXPECT_EQ(column(wide, S::kCounted), tokens.counted.sum().item<double>());
  EXPECT_EQ(column(wide, S::kVisiblePairs),
            (visible * tokens.route +
             at::minimum(visible, at::full_like(visible, window)) * tokens.route.logical_not())
                .sum()
                .item<double>());
  EXPECT_NEAR(column(wide, S::kLogit), logits.sum().item<double>(), 1e-10);
  EXPECT_NEAR(column(wide, S::kLogitSquare), logits.square().sum().item<double>(), 1e-10);
  EXPECT_NEAR(column(wide, S::kEntropy),
              -(p * p.log() + (1 - p) * (1 - p).log()).sum().item<double>(), 1e-10);
  EXPECT_NEAR(column(wide, S::kDisagreement), tokens.disagreement.sum().item<double>(), 1e-10);
  EXPECT_NEAR(column(wide, S::kGamma), gamma.sum().item<double>(), 1e-10);
  EXPECT_NEAR(column(wide, S::kRegularizer), (gamma * softplus).sum().item<double>(), 1e-10);

  const at::Tensor statistics = at::full_like(wide, std::numeric_limits<double>::quiet_NaN());
  ops().count_routing(tokens, statistics);
  wide[S::kGamma] = 0.0;
  wide[S::kRegularizer] = 0.0;
  EXPECT_TRUE(at::equal(statistics, wide));

  for (const BranchTaken taken : {BranchTaken::kFull, BranchTaken::kWindow}) {
    RoutedTokens plain;
    plain.taken = taken;
    plain.position = tokens.position;
    plain.counted = tokens.counted;
    plain.window = window;
    const bool full = taken == BranchTaken::kFull;
    ops().count_routing(plain, statistics);
    EXPECT_EQ(column(statistics, S::kFull), full ? count : 0);
    EXPECT_EQ(column(statistics, S::kFarFull), full ? far.sum().item<double>() : 0.0);
    EXPECT_EQ(column(statistics, S::kVisiblePairs),
              (full ? visible : visible.clamp_max(window)).sum().item<double>());
    EXPECT_EQ(column(statistics, S::kLogit), 0.0);
    EXPECT_EQ(column(statistics, S::kDisagreement), 0.0);
  }
}

TEST_F(ReferenceOperationsTest, LinearCrossEntropyLeavesIgnoredTargetsOut) {
  const at::Tensor hidden = leaf({300, 5}), weight = leaf({11, 5});
  at::Tensor targets = at::randint(11, {300}, at::kLong);
  targets.narrow(0, 40, 3).fill_(-1);
  const at::Tensor counted = targets >= 0;
  const at::Tensor log_share = hidden.matmul(weight.t()).log_softmax(-1);
  const at::Tensor nll =
      -log_share.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1) * counted;
  nll.sum().backward();

  expect_equal(ops().linear_cross_entropy_forward(hidden.detach(), weight.detach(), targets),
               nll.detach());
  expect_gradient(weight.grad(), [&](const GradientTarget& grad_weight) {
    const LinearCrossEntropyOutput out = ops().linear_cross_entropy_train(
        hidden.detach(), weight.detach(), targets, grad_weight, {});
    expect_equal(out.nll, nll.detach());
    expect_equal(out.grad_hidden, hidden.grad());
  });
}

}  // namespace
}  // namespace swiattn
