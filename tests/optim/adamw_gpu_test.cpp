// The fused update on a GPU against the same update on the CPU, bit for bit, skipped steps
// included.
#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/cuda_check.h"
#include "optim/adamw.h"
#include "optim/stochastic_rounding.h"

namespace swiattn {
namespace {

constexpr AdamWSettings kSettings{0.9, 0.95, 1e-8, 0.1, 3.0};
const at::Device kGpu(at::kCUDA, 0);

ParameterGroup single(const std::string& name, std::vector<int64_t> shape, ParameterRole role) {
  return {name, {{name, std::move(shape), role}}};
}

// Odd lengths, so that spans begin and end in the middle of vectors; a frozen member between
// trained ones; more spans than one launch takes.
std::vector<ParameterUnit> odd_units() {
  ParameterUnit many{"many", {}};
  for (int i = 0; i < 40; ++i) {
    many.groups.push_back(single(fmt::format("n{}", i), {1 + 37 * i},
                                 i % 2 == 0 ? ParameterRole::kNorm : ParameterRole::kMatrix));
  }
  return {{"odd",
           {single("matrix", {1531, 1033}, ParameterRole::kMatrix),
            {"qkv",
             {{"q", {3, 7}, ParameterRole::kMatrix},
              {"frozen.k", {1, 7}, ParameterRole::kMatrix},
              {"v", {5, 7}, ParameterRole::kMatrix}}},
            {"pair", {{"a", {3}, ParameterRole::kBias}, {"b", {2, 3}, ParameterRole::kMatrix}}},
            single("norm", {77}, ParameterRole::kNorm),
            single("router", {1, 9}, ParameterRole::kRouter),
            single("frozen", {31}, ParameterRole::kBias)}},
          many,
          {"untrained", {single("frozen.unit", {100}, ParameterRole::kMatrix)}}};
}

FlatParameters make(c10::Device device, at::ScalarType moments) {
  return {odd_units(), {"frozen", "frozen.k", "frozen.unit"}, at::kBFloat16,
          device,      FlatParameters::Purpose::kTraining,    moments};
}

class AdamWGpuMomentsTest : public testing::TestWithParam<at::ScalarType> {};

TEST_P(AdamWGpuMomentsTest, HasTheBitsOfTheCpu) {
  FlatParameters cpu = make(at::kCPU, GetParam()), gpu = make(kGpu, GetParam());
  at::manual_seed(2);
  for (size_t u = 0; u < cpu.units().size(); ++u) {
    cpu.units()[u].master.normal_();
    gpu.units()[u].master.copy_(cpu.units()[u].master);
  }
  EXPECT_EQ(gpu.units()[0].moment1.scalar_type(), GetParam());
  cpu.refresh_compute_copies();
  gpu.refresh_compute_copies();
  AdamW cpu_optimizer(kSettings, cpu), gpu_optimizer(kSettings, gpu);
  for (int step = 1; step <= 6; ++step) {
    for (size_t u = 0; u < cpu.units().size(); ++u) {
      // From gradients that vanish beside eps to large ones.
      cpu.units()[u].gradient.normal_().pow_(7);
      gpu.units()[u].gradient.copy_(cpu.units()[u].gradient);
    }
    const at::Tensor factor = at::scalar_tensor(0.7, at::kDouble);
    const at::Tensor apply = at::scalar_tensor(step == 3 ? 0.0 : 1.0, at::kDouble);
    cpu_optimizer.step(1e-2, factor, apply);
    gpu_optimizer.step(1e-2, factor.cuda(), apply.cuda());
  }
  EXPECT_EQ(gpu_optimizer.updates().item<int64_t>(), 5);
  for (size_t u = 0; u < cpu.units().size(); ++u) {
    const FlatUnit &expected = cpu.units()[u], &found = gpu.units()[u];
    EXPECT_TRUE(at::equal(found.master.cpu(), expected.master)) << expected.name;
    EXPECT_TRUE(at::equal(found.moment1.cpu(), expected.moment1)) << expected.name;
    EXPECT_TRUE(at::equal(found.moment2.cpu(), expected.moment2)) << expected.name;
    EXPECT_TRUE(at::equal(found.compute.cpu(), expected.compute)) << expected.name;
  }
}

// In bfloat16 beyond 2^32 elements: the draws of the rounding are made from the numbers of pairs,
// which then exceed 2^31 too.
TEST_P(AdamWGpuMomentsTest, ReachesElementsBeyondTwoToTheThirtyFirst) {
  const bool narrow = GetParam() == at::kBFloat16;
  const int64_t count = (int64_t{1} << (narrow ? 32 : 31)) + 5;
  constexpr int64_t kTail = 1000;
  c10::cuda::CUDACachingAllocator::emptyCache();
  size_t free = 0, total = 0;
  SWIATTN_CHECK_CUDA(cudaMemGetInfo(&free, &total));
  const size_t bytes = (narrow ? size_t{14} : size_t{18}) * static_cast<size_t>(count);
  if (free < bytes + (size_t{1} << 30)) GTEST_SKIP() << "not enough memory";
  FlatParameters parameters({{"unit", {single("bias", {count}, ParameterRole::kBias)}}}, {},
                            at::kBFloat16, kGpu, FlatParameters::Purpose::kTraining, GetParam());
  FlatUnit& unit = parameters.units()[0];
  unit.gradient.narrow(0, count - kTail, kTail).fill_(1.0);
  AdamW optimizer(kSettings, parameters);
  const at::Tensor one = at::ones({}, unit.master.options().dtype(at::kDouble));
  optimizer.step(0.5, one, one);

  const auto part = [&](const at::Tensor& buffer, int64_t begin, int64_t size) {
    return buffer.narrow(0, begin, size).cpu().to(at::kFloat);
  };
  const uint64_t key = rounding_key(kSettings.seed, /*updates=*/1, /*unit=*/0);
  const auto moment = [&](int which, int64_t element) {
    const float value = 1.0F - static_cast<float>(which == 0 ? kSettings.beta1 : kSettings.beta2);
    if (!narrow) return value;
    const uint64_t word = rounding_word(key, element / 2);
    return round_stochastically(value, rounding_draw(word, static_cast<int>(element % 2), which));
  };
  const int64_t begin = count - kTail;
  const at::Tensor master = part(unit.master, begin, kTail);
  EXPECT_TRUE(at::allclose(master, at::full({kTail}, -0.5), 0.0, 1e-6));
  EXPECT_TRUE(at::equal(part(unit.compute, begin, kTail), master.to(at::kBFloat16).to(at::kFloat)));
  for (const int which : {0, 1}) {
    const at::Tensor found = part(which == 0 ? unit.moment1 : unit.moment2, begin, kTail);
    for (int64_t i = 0; i < kTail; ++i) {
      ASSERT_EQ(found[i].item<float>(), moment(which, begin + i)) << which << " " << i;
    }
  }
  // Before and behind these, and where their numbers would wrap around: nothing but zeros.
  for (const at::Tensor& buffer : {unit.master, unit.moment1, unit.moment2}) {
    EXPECT_EQ(part(buffer, 0, kTail).abs().max().item<float>(), 0.0F);
    EXPECT_EQ(part(buffer, begin - 8, 8).abs().max().item<float>(), 0.0F);
    EXPECT_EQ(part(buffer, count, 1).item<float>(), 0.0F);  // padding
  }
}

INSTANTIATE_TEST_SUITE_P(All, AdamWGpuMomentsTest, testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return toString(info.param); });

}  // namespace
}  // namespace swiattn
