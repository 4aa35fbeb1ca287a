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

// Rows are independent: the last of very many are those of a call with them alone.
TEST(LargeOperationsTest, RowsBeyondTwoToTheThirtyFirstElements) {
  constexpr int64_t kRows = (int64_t{1} << 20) + 40, kTail = 33;
  size_t free = 0, total = 0;
  SWIATTN_CHECK_CUDA(cudaMemGetInfo(&free, &total));
  if (free < size_t{28} << 30) GTEST_SKIP() << "needs 28 GiB of a GPU";
  const auto tail = [](const at::Tensor& all) { return all.narrow(0, all.size(0) - kTail, kTail); };
  const auto expect_tail = [&](const at::Tensor& all, const at::Tensor& alone) {
    EXPECT_TRUE(at::equal(tail(all), alone));
  };
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

}  // namespace
}  // namespace swiattn
