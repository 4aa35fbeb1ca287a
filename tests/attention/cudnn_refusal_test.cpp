// What CudnnAttention says where it cannot help, with or without cuDNN in the program: no GPU is
// needed to be refused.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "attention/cudnn_attention.h"

namespace swiattn {
namespace {

TEST(CudnnRefusalTest, TensorsOfTheCpuAreRefusedWithAReason) {
  const auto x = [] { return at::zeros({1, 2, 128, 64}, at::kBFloat16); };
  CudnnAttentionCall call{x(), x(), x(), x(), at::zeros({1, 2, 128}), 128, 0.125, nullptr};
  const CudnnAttentionGradients gradients{x(), x(), x(), x()};
  CudnnAttention attention;
  EXPECT_FALSE(attention.prepare_forward(call));
  EXPECT_FALSE(attention.refusal().empty());
  EXPECT_FALSE(attention.prepare_backward(call, gradients));
  EXPECT_THROW(attention.forward(call), std::runtime_error);
  EXPECT_THROW(attention.backward(call, gradients), std::runtime_error);
}

}  // namespace
}  // namespace swiattn
