// How close the operations that memory bounds come to its rate, in the paper's shape: 32,768
// tokens, width 2048, FFN 5632. Prints; asserts only that rows beyond 2^31 elements come out like
// others.
#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "bandwidth.h"
#include "ops/fused_operations.h"
#include "ops/gpu_kernels.h"

namespace swiattn {
namespace {

constexpr int64_t kTokens = 32768;
constexpr int64_t kWidth = 2048;
constexpr int64_t kFfn = 5632;

const Operations& ops() { return fused_operations(); }

at::TensorOptions options(at::ScalarType type) {
  return at::TensorOptions().device(at::kCUDA).dtype(type);
}
at::Tensor random(at::IntArrayRef shape) { return at::randn(shape, options(at::kBFloat16)); }
GradientTarget gradient(at::IntArrayRef shape, GradientSum sum = GradientSum::kWrite) {
  return {at::zeros(shape, options(at::kFloat)), sum};
}

// At 2.95 TB/s every line takes 182 us: 8 bytes an element forward and backward, 4 without delta.
TEST(OperationBandwidthTest, RmsNorm) {
  for (const int64_t width : {128, 576, 1024, 2048, 4096, 8192}) {
    const int64_t rows = kTokens * kWidth / width;
    const at::Tensor x = random({rows, width}), delta = random({rows, width}),
                     weight = random({width});
    const double bytes = 8.0 * static_cast<double>(rows * width);
    print_bandwidth(fmt::format("RMSNorm forward, width {}", width), bytes,
                    [&] { ops().rms_norm_forward(x, delta, weight, 1e-5); });
    const RmsNormOutput saved = ops().rms_norm_forward(x, delta, weight, 1e-5);
    const GradientTarget grad_weight = gradient({width});
    print_bandwidth(fmt::format("RMSNorm backward, width {}", width), bytes, [&] {
      ops().rms_norm_backward(x, delta, saved.residual, weight, saved.inverse_rms, grad_weight);
    });
    const at::Tensor router = at::randn({1, width}, options(at::kFloat));
    const at::Tensor grad_logits = at::randn({rows}, options(at::kFloat));
    const GradientTarget grad_router = gradient({1, width});
    print_bandwidth(fmt::format("with router, forward, width {}", width), bytes,
                    [&] { ops().routed_norm_forward(x, delta, weight, 1e-5, router); });
    print_bandwidth(fmt::format("with router, backward, width {}", width), bytes, [&] {
      ops().routed_norm_backward(x, grad_logits, delta, saved, weight, router, grad_weight,
                                 grad_router);
    });
  }
}

// 3 and 6 times rows x FFN bf16: 375 and 751 us.
TEST(OperationBandwidthTest, Swiglu) {
  const at::Tensor gate_up = random({kTokens, 2 * kFfn}), grad = random({kTokens, kFfn});
  const double bytes = 2.0 * static_cast<double>(grad.numel());
  print_bandwidth("SwiGLU forward", 3 * bytes, [&] { ops().swiglu_forward(gate_up); });
  print_bandwidth("SwiGLU backward", 6 * bytes, [&] { ops().swiglu_backward(grad, gate_up); });
}

// The logits read once from memory, the gradients written: 6 bytes a logit.
TEST(OperationBandwidthTest, CrossEntropy) {
  for (const int64_t vocabulary : {32000, 49152, 128256}) {
    const int64_t rows = (int64_t{1} << 26) / vocabulary;
    const at::Tensor logits = at::randn({rows, vocabulary}, options(at::kFloat));
    const at::Tensor targets = at::randint(vocabulary, {rows}, options(at::kLong));
    const at::Tensor nll = at::empty({rows}, options(at::kFloat));
    const at::Tensor grad = at::empty({rows, vocabulary}, options(at::kBFloat16));
    print_bandwidth(fmt::format("cross entropy, vocabulary {}", vocabulary),
                    6.0 * static_cast<double>(rows * vocabulary), [&] {
                      gpu::cross_entropy(
                          logits.const_data_ptr<float>(), targets.const_data_ptr<int64_t>(),
                          nll.mutable_data_ptr<float>(), grad.mutable_data_ptr(), rows, vocabulary,
                          c10::cuda::getCurrentCUDAStream().stream());
                    });
  }
}

// Some 35 bytes a token, 0.4 us: the two launches are what counts.
TEST(OperationBandwidthTest, Routing) {
  RoutedTokens tokens;
  tokens.position = at::arange(kTokens, options(at::kLong));
  tokens.logits = at::randn({kTokens}, options(at::kFloat));
  tokens.counted = at::ones_like(tokens.logits, at::kBool);
  tokens.route = tokens.logits > 0;
  tokens.disagreement = tokens.logits.square();
  tokens.window = 1024;
  const at::Tensor nll = at::rand({kTokens}, options(at::kFloat));
  const at::Tensor row = at::zeros({RoutingStatistics::kColumns}, options(at::kDouble));
  const RouterObjective objective{{1e-3, 0.1, 1.0, 100.0, false}, nll, 22};
  print_bandwidth("routing", 35.0 * kTokens,
                  [&] { ops().router_gradient(tokens, objective, nll, row); });
}

// Writing saves the reading of 92 MB of float32: 31 us.
TEST(OperationBandwidthTest, WeightGradientWrittenAndAdded) {
  const at::Tensor x = random({kTokens, kWidth}), grad = random({kTokens, 2 * kFfn});
  for (const GradientSum sum : {GradientSum::kAdd, GradientSum::kWrite}) {
    const GradientTarget into = gradient({2 * kFfn, kWidth}, sum);
    const double microseconds =
        median_microseconds([&] { ops().linear_weight_gradient(grad, x, into); });
    fmt::print("weight gradient of gate and up, {}: {:.1f} us\n",
               sum == GradientSum::kAdd ? "added" : "written", microseconds);
  }
}

// Rows are independent: the last of very many are those of a call with them alone.
TEST(OperationBandwidthTest, RowsBeyondTwoToTheThirtyFirstElements) {
  constexpr int64_t kRows = (int64_t{1} << 20) + 40, kTail = 33;
  size_t free = 0, total = 0;
  SWIATTN_CHECK_CUDA(cudaMemGetInfo(&free, &total));
  if (free < size_t{28} << 30) GTEST_SKIP() << "not enough memory";
  const auto tail = [](const at::Tensor& all) { return all.narrow(0, all.size(0) - kTail, kTail); };
  const auto expect_tail = [&](const at::Tensor& all, const at::Tensor& alone) {
    EXPECT_TRUE(at::equal(tail(all), alone));
  };
  const at::Tensor weight = random({kWidth}), router = at::randn({1, kWidth}, options(at::kFloat));
  const at::Tensor grad_logits = at::randn({kRows}, options(at::kFloat));
  {
    const at::Tensor x = random({kRows, kWidth});
    const RoutedNormOutput all = ops().routed_norm_forward(x, x, weight, 1e-5, router);
    const RoutedNormOutput alone =
        ops().routed_norm_forward(tail(x), tail(x), weight, 1e-5, router);
    expect_tail(all.norm.residual, alone.norm.residual);
    expect_tail(all.norm.normed, alone.norm.normed);
    expect_tail(all.logits, alone.logits);
    expect_tail(ops().routed_norm_backward(x, grad_logits, x, all.norm, weight, router, {}, {}),
                ops().routed_norm_backward(tail(x), tail(grad_logits), tail(x), alone.norm, weight,
                                           router, {}, {}));
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
