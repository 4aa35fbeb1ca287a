// The fused update on a GPU against the same update on the CPU, skipped steps included.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "optim/adamw.h"

namespace swiattn {
namespace {

constexpr AdamWSettings kSettings{0.9, 0.95, 1e-8, 0.1, 3.0};

// Buffers of odd lengths, one longer than what all threads take at once.
FlatParameters make(c10::Device device) {
  const std::vector<ParameterUnit> units = {
      {"unit",
       {{"m", {{"matrix", {1531, 1033}, ParameterRole::kMatrix}}},
        {"n", {{"norm", {77}, ParameterRole::kNorm}}},
        {"r", {{"router", {1, 9}, ParameterRole::kRouter}}},
        {"f", {{"frozen", {31}, ParameterRole::kBias}}}}}};
  return {units, {"frozen"}, at::kBFloat16, device, FlatParameters::Purpose::kTraining};
}

TEST(AdamWGpuTest, FollowsTheCpu) {
  FlatParameters cpu = make(at::kCPU), gpu = make(at::Device(at::kCUDA, 0));
  FlatUnit& expected = cpu.units()[0];
  FlatUnit& found = gpu.units()[0];
  at::manual_seed(2);
  expected.master.normal_();
  found.master.copy_(expected.master);
  cpu.refresh_compute_copies();
  gpu.refresh_compute_copies();
  AdamW cpu_optimizer(kSettings, cpu), gpu_optimizer(kSettings, gpu);
  for (int step = 1; step <= 6; ++step) {
    expected.gradient.normal_();
    found.gradient.copy_(expected.gradient);
    const at::Tensor factor = at::scalar_tensor(0.7, at::kDouble);
    const at::Tensor apply = at::scalar_tensor(step == 3 ? 0.0 : 1.0, at::kDouble);
    cpu_optimizer.step(1e-2, factor, apply);
    gpu_optimizer.step(1e-2, factor.cuda(), apply.cuda());
  }
  EXPECT_EQ(gpu_optimizer.updates().item<int64_t>(), 5);
  EXPECT_TRUE(at::allclose(found.master.cpu(), expected.master, 1e-6, 1e-6));
  EXPECT_TRUE(at::allclose(found.moment1.cpu(), expected.moment1, 1e-6, 1e-6));
  EXPECT_TRUE(at::allclose(found.moment2.cpu(), expected.moment2, 1e-6, 1e-6));
  const auto trained = [&](const at::Tensor& buffer) {
    return buffer.narrow(0, 0, expected.trainable_numel);
  };
  EXPECT_TRUE(at::equal(trained(found.compute), trained(found.master).to(at::kBFloat16)));
}

}  // namespace
}  // namespace swiattn
