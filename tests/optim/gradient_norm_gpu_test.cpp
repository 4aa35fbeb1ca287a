#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <gtest/gtest.h>

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "optim/gradient_norm.h"

namespace swiattn {
namespace {

namespace Allocator = c10::cuda::CUDACachingAllocator;

class GradientNormGpuTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "needs a GPU";
    parameters_.emplace(
        std::vector<ParameterUnit>{unit("large", 60'000), unit("row", 1), unit("odd", 1333)},
        std::vector<std::string>{}, at::kBFloat16, at::Device(at::kCUDA, 0),
        FlatParameters::Purpose::kTraining);
    at::manual_seed(1);
    for (FlatUnit& unit : units()) unit.gradient.normal_().mul_(1e-3);
  }

  static ParameterUnit unit(const std::string& name, int64_t rows) {
    return {name, {{name, {{name, {rows, 1000}, ParameterRole::kMatrix}}}}};
  }
  std::vector<FlatUnit>& units() { return parameters_->units(); }
  double square_sum() const { return gradient_square_sum(*parameters_).item<double>(); }

  std::optional<FlatParameters> parameters_;
};

TEST_F(GradientNormGpuTest, EqualsTheFloat64Sum) {
  double judge = 0.0;
  for (const FlatUnit& unit : units()) {
    judge += unit.gradient.to(at::kDouble).square().sum().item<double>();
  }
  EXPECT_NEAR(square_sum(), judge, 1e-13 * judge);
}

TEST_F(GradientNormGpuTest, HasTheSameBitsEveryTime) {
  const double first = square_sum();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(square_sum(), first);
}

TEST_F(GradientNormGpuTest, CopiesNoGradient) {
  const auto peak = [](c10::DeviceIndex device) {
    return Allocator::getDeviceStats(device).allocated_bytes[0];
  };
  const c10::DeviceIndex device = units()[0].gradient.get_device();
  Allocator::resetPeakStats(device);
  const int64_t before = peak(device).current;
  square_sum();
  EXPECT_LT(peak(device).peak - before, int64_t{1} << 20);
}

TEST_F(GradientNormGpuTest, IsNotFiniteWhenOneGradientIsNot) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    units()[2].gradient[777'777] = bad;
    EXPECT_FALSE(std::isfinite(square_sum()));
  }
}

}  // namespace
}  // namespace swiattn
