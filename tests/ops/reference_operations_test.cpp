// Every reference operation in float64: its forward against the formula written out, its backward
// against autograd of that formula.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

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

class ReferenceOperationsTest : public testing::Test {
 protected:
  ReferenceOperationsTest() { at::manual_seed(11); }
};

TEST_F(ReferenceOperationsTest, RmsNormAddsTheResidualAndNormalisesIt) {
  const at::Tensor x = leaf({7, 10}), delta = leaf({7, 10}), weight = leaf({10});
  const double eps = 1e-3;
  const at::Tensor residual = x + delta;
  const at::Tensor normed = residual / (residual.square().mean(-1, true) + eps).sqrt() * weight;
  const at::Tensor grad_normed = random({7, 10}), grad_residual = random({7, 10});
  (normed * grad_normed + residual * grad_residual).sum().backward();

  const RmsNormOutput out =
      ops().rms_norm_forward(x.detach(), delta.detach(), weight.detach(), eps);
  expect_equal(out.residual, residual.detach());
  expect_equal(out.normed, normed.detach());
  const at::Tensor grad_weight = at::ones({10}, at::kDouble);  // it is added to
  expect_equal(ops().rms_norm_backward(grad_normed, grad_residual, out.residual, weight.detach(),
                                       out.inverse_rms, grad_weight),
               x.grad());
  expect_equal(grad_weight - 1, weight.grad());
}

TEST_F(ReferenceOperationsTest, RmsNormWithoutASecondInput) {
  const at::Tensor x = leaf({5, 6}), weight = leaf({6});
  const at::Tensor normed = x / (x.square().mean(-1, true) + 1e-5).sqrt() * weight;
  const at::Tensor grad = random({5, 6});
  (normed * grad).sum().backward();

  const RmsNormOutput out = ops().rms_norm_forward(x.detach(), {}, weight.detach(), 1e-5);
  expect_equal(out.residual, x.detach());
  expect_equal(ops().rms_norm_backward(grad, {}, out.residual, weight.detach(), out.inverse_rms,
                                       at::Tensor()),
               x.grad());
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
    const at::Tensor grad_weight = at::ones({4, 5}, at::kDouble);
    const at::Tensor grad_bias = with_bias ? at::ones({4}, at::kDouble) : no_tensor;
    expect_equal(ops().linear_backward(grad, x.detach(), weight.detach(), grad_weight, grad_bias),
                 x.grad());
    expect_equal(grad_weight - 1, weight.grad());
    if (with_bias) expect_equal(grad_bias - 1, bias.grad());
  }
}

TEST_F(ReferenceOperationsTest, EmbeddingAddsTheGradientsOfRepeatedTokens) {
  const at::Tensor table = leaf({6, 3});
  const at::Tensor ids = at::tensor({2, 5, 2, 0, 2}, at::kLong);
  const at::Tensor rows = table.index_select(0, ids);
  const at::Tensor grad = random({5, 3});
  (rows * grad).sum().backward();

  expect_equal(ops().embedding_forward(table.detach(), ids), rows.detach());
  const at::Tensor grad_table = at::ones({6, 3}, at::kDouble);
  ops().embedding_backward(grad, ids, grad_table);
  expect_equal(grad_table - 1, table.grad());
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

TEST_F(ReferenceOperationsTest, SwigluOfThePackedProjection) {
  const at::Tensor gate_up = leaf({5, 14});
  const at::Tensor gate = gate_up.narrow(1, 0, 7), up = gate_up.narrow(1, 7, 7);
  const at::Tensor y = gate * gate.sigmoid() * up;
  const at::Tensor grad = random({5, 7});
  (y * grad).sum().backward();

  expect_equal(ops().swiglu_forward(gate_up.detach()), y.detach());
  expect_equal(ops().swiglu_backward(grad, gate_up.detach()), gate_up.grad());
}

TEST_F(ReferenceOperationsTest, RouterIsADotProductThatAddsToTheHiddenGradient) {
  const at::Tensor hidden = leaf({8, 6}), weight = leaf({6});
  const at::Tensor logits = hidden.matmul(weight);
  const at::Tensor grad = random({8});
  (logits * grad).sum().backward();

  expect_equal(ops().router_forward(hidden.detach(), weight.detach()), logits.detach());
  const at::Tensor grad_hidden = at::ones({8, 6}, at::kDouble);
  const at::Tensor grad_weight = at::ones({6}, at::kDouble);
  ops().router_backward(grad, hidden.detach(), weight.detach(), grad_hidden, grad_weight);
  expect_equal(grad_hidden - 1, hidden.grad());
  expect_equal(grad_weight - 1, weight.grad());
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
  const at::Tensor grad_weight = at::ones({11, 5}, at::kDouble);
  const LinearCrossEntropyOutput out =
      ops().linear_cross_entropy_train(hidden.detach(), weight.detach(), targets, grad_weight, {});
  expect_equal(out.nll, nll.detach());
  expect_equal(out.grad_hidden, hidden.grad());
  expect_equal(grad_weight - 1, weight.grad());
}

}  // namespace
}  // namespace swiattn
