#include "optim/gradient_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>

namespace swiattn {
namespace {

FlatParameters two_tensors() {
  return FlatParameters({{"unit",
                          {{"a", {{"a", {300, 500}, ParameterRole::kMatrix}}},
                           {"b", {{"b", {7}, ParameterRole::kNorm}}}}}},
                        {}, at::kFloat, at::kCPU, FlatParameters::Purpose::kTraining);
}

TEST(GradientNormTest, EqualsTheFloat64Sum) {
  FlatParameters parameters = two_tensors();
  at::Tensor& gradient = parameters.units()[0].gradient;
  gradient.copy_(at::arange(gradient.numel()).remainder(97) - 48);
  EXPECT_DOUBLE_EQ(gradient_square_sum(parameters).item<double>(),
                   gradient.to(at::kDouble).square().sum().item<double>());
}

TEST(GradientNormTest, LeavesOutTheFrozenMembersOfAGroup) {
  FlatParameters parameters({{"unit",
                              {{"qkv",
                                {{"q", {4, 3}, ParameterRole::kMatrix},
                                 {"k", {2, 3}, ParameterRole::kMatrix},
                                 {"v", {2, 3}, ParameterRole::kMatrix}}}}}},
                            {"k", "v"}, at::kFloat, at::kCPU, FlatParameters::Purpose::kTraining);
  parameters.units()[0].gradient.fill_(2.0);
  parameters.units()[0].gradient[13] = std::numeric_limits<float>::quiet_NaN();
  parameters.units()[0].gradient.narrow(0, 24, parameters.units()[0].gradient.numel() - 24).zero_();
  parameters.finish_gradients();
  EXPECT_DOUBLE_EQ(gradient_square_sum(parameters).item<double>(), 12 * 4.0);
}

TEST(GradientNormTest, HasTheSameBitsWithAnyNumberOfThreads) {
  FlatParameters parameters = two_tensors();
  at::Tensor& gradient = parameters.units()[0].gradient;
  gradient.copy_((at::arange(gradient.numel(), at::kDouble) * 0.7).sin());
  at::set_num_threads(1);
  const double one = gradient_square_sum(parameters).item<double>();
  at::set_num_threads(2);
  EXPECT_EQ(gradient_square_sum(parameters).item<double>(), one);
}

TEST(GradientNormTest, IsNotFiniteWhenOneGradientIsNot) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    FlatParameters parameters = two_tensors();
    parameters.units()[0].gradient[149'999] = bad;
    EXPECT_FALSE(std::isfinite(gradient_square_sum(parameters).item<double>()));
  }
}

}  // namespace
}  // namespace swiattn
