// Operations of more than 2^31 elements on a GPU.
#include <ATen/ATen.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "base/cuda_check.h"
#include "ops/fused_operations.h"

namespace swiattn {
namespace {

constexpr int64_t kWidth = 2048;

const Operations& ops() { return fused_operations(); }
at::TensorOptions options(at::ScalarType type) {
  return at::TensorOptions().device(at::kCUDA).dtype(type);
}
at::Tensor random(at::IntArrayRef shape) { return at::randn(shape, options(at::kBFloat16)); }

constexpr int64_t kRows = (int64_t{1} << 20) + 40, kTail = 33;

at::Tensor tail(const at::Tensor& all) { return all.narrow(0, all.size(0) - kTail, kTail); }
void expect_tail(const at::Tensor& all, const at::Tensor& alone) {
  EXPECT_TRUE(at::equal(tail(all), alone));
}

// Zero but in the last rows.
at::Tensor random_tail(int64_t columns) {
  const at::Tensor all = at::zeros({kRows, columns}, options(at::kBFloat16));
  tail(all).normal_();
  return all;
}

class LargeOperationsTest : public testing::Test {
 protected:
  void SetUp() override {
    size_t free = 0, total = 0;
    SWIATTN_CHECK_CUDA(cudaMemGetInfo(&free, &total));
    if (free < size_t{28} << 30) GTEST_SKIP() << "needs 28 GiB of a GPU";
    at::manual_seed(3);
  }
};

// Rows are independent: the last of very many are those of a call with them alone.
TEST_F(LargeOperationsTest, RowsBeyondTwoToTheThirtyFirstElements) {
  const at::Tensor weight = random({kWidth}), router = at::randn({1, kWidth}, options(at::kFloat));
  const at::Tensor grad_logits = at::randn({kRows}, options(at::kFloat));
  {
    const at::Tensor x = random({kRows, kWidth});
    const RoutedNormOutput all = ops().routed_norm_forward(x, weight, 1e-5, router);
    const RoutedNormOutput alone = ops().routed_norm_forward(tail(x), weight, 1e-5, router);
    expect_tail(all.norm.normed, alone.norm.normed);
    expect_tail(all.logits, alone.logits);
    expect_tail(ops().routed_norm_backward(x, grad_logits, x, x, all.norm, weight, router, {}, {}),
                ops().routed_norm_backward(tail(x), tail(grad_logits), tail(x), tail(x), alone.norm,
                                           weight, router, {}, {}));
  }
  {
    const at::Tensor packed = random({kRows, kWidth}), head_weight = random({128});
    const auto heads = [](const at::Tensor& rows) {
      return rows.unflatten(1, {kWidth / 128, 128});
    };
    const RotaryTable table{at::randn({kRows, 64}, options(at::kFloat)),
                            at::randn({kRows, 64}, options(at::kFloat))};
    const RotaryTable tail_table{tail(table.cosine), tail(table.sine)};
    const at::Tensor alone = tail(packed).clone();
    const at::Tensor before = ops().head_norm_forward(heads(packed), head_weight, 1e-5, table);
    const at::Tensor before_alone =
        ops().head_norm_forward(heads(alone), head_weight, 1e-5, tail_table);
    expect_tail(before, before_alone);
    expect_tail(packed, alone);
    // What the forward made serves as a gradient.
    ops().head_norm_backward(heads(packed), before, head_weight, 1e-5, table, {});
    ops().head_norm_backward(heads(alone), before_alone, head_weight, 1e-5, tail_table, {});
    expect_tail(packed, alone);
    const auto rotate = [&](const at::Tensor& rows, const RotaryTable& angles) {
      ops().apply_rotary(heads(rows), angles, RotaryDirection::kForward);
    };
    rotate(packed, table);
    rotate(alone, tail_table);
    expect_tail(packed, alone);
  }
  const at::Tensor gate_up = random({kRows, kWidth}), grad = random({kRows, kWidth / 2});
  expect_tail(ops().swiglu_forward(gate_up), ops().swiglu_forward(tail(gate_up)));
  // The backward writes over its operands.
  const at::Tensor grad_tail = tail(grad).clone(), gate_up_tail = tail(gate_up).clone();
  const SwigluGradients all = ops().swiglu_backward(grad, gate_up);
  const SwigluGradients alone = ops().swiglu_backward(grad_tail, gate_up_tail);
  expect_tail(all.gate_up, alone.gate_up);
  expect_tail(all.activated, alone.activated);
}

// Another number of rows may have another kernel: the same but for the order of a sum.
TEST_F(LargeOperationsTest, ProductsBeyondTwoToTheThirtyFirstElements) {
  constexpr int64_t kNarrow = 16;
  const at::Tensor weight = random({kWidth, kNarrow});
  const at::Tensor x = random({kRows, kNarrow});
  const auto expect_close = [](const at::Tensor& found, const at::Tensor& exact, double rounding) {
    const at::Tensor bound = exact.abs() * rounding + 1e-4;
    EXPECT_TRUE(((found.to(at::kDouble) - exact).abs() <= bound).all().item<bool>());
  };
  const auto exact = [](const at::Tensor& a, const at::Tensor& b) {
    return at::mm(a.to(at::kDouble), b.to(at::kDouble));
  };
  constexpr double kBf16 = 1.0 / 256, kFloat = 1e-5;
  expect_close(tail(ops().linear_forward(x, weight, {})), exact(tail(x), weight.t()), kBf16);
  const at::Tensor grad = random_tail(kWidth);
  expect_close(tail(ops().linear_input_gradient(grad, weight)), exact(tail(grad), weight), kBf16);
  const at::Tensor grad_weight = at::empty({kWidth, kNarrow}, options(at::kFloat));
  ops().linear_weight_gradient(grad, x, {grad_weight, GradientSum::kWrite});
  expect_close(grad_weight, exact(tail(grad).t(), tail(x)), kFloat);
}

// Gradients of weights: sums over all rows, of which only the last are not zero.
TEST_F(LargeOperationsTest, SumsBeyondTwoToTheThirtyFirstElements) {
  const at::Tensor grad = random_tail(kWidth);
  const at::Tensor weight_grad = at::empty({kWidth}, options(at::kFloat));
  const at::Tensor alone = at::empty_like(weight_grad);
  const at::Tensor weight = random({kWidth});
  {
    const at::Tensor x = random({kRows, kWidth});
    const at::Tensor inverse_rms = ops().rms_norm_forward(x, weight, 1e-5).inverse_rms;
    ops().rms_norm_backward(grad, {}, x, weight, inverse_rms, {weight_grad, GradientSum::kWrite});
    ops().rms_norm_backward(tail(grad), {}, tail(x), weight, tail(inverse_rms),
                            {alone, GradientSum::kWrite});
    EXPECT_TRUE(at::allclose(weight_grad, alone, 1e-5, 1e-5));
  }
  constexpr int64_t kVocabulary = 100, kRare = 99;
  const at::Tensor ids = at::randint(kRare, {kRows}, options(at::kLong));
  tail(ids).fill_(kRare);
  const at::Tensor table = at::empty({kVocabulary, kWidth}, options(at::kFloat));
  ops().embedding_backward(grad, ids, {table, GradientSum::kWrite});
  EXPECT_TRUE(at::allclose(table[kRare], tail(grad).to(at::kFloat).sum(0), 1e-5, 1e-5));
  EXPECT_EQ(table.narrow(0, 0, kRare).count_nonzero().item<int64_t>(), 0);
}

}  // namespace
}  // namespace swiattn
