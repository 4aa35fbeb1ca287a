#include "parallel/device_graphs.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace swiattn {
namespace {

TEST(DeviceGraphsTest, OnACpuAReplayCarriesTheWorkOut) {
  DeviceGraphs graphs(at::kCPU);
  const at::Tensor operand = at::ones({3});
  at::Tensor doubled, added;
  const size_t twice = graphs.record([&] { doubled = 2 * operand; });
  const size_t more = graphs.record([&] { added = doubled + 1; });
  EXPECT_FALSE(doubled.defined()) << "recording is not carrying out";
  graphs.replay(twice);
  graphs.replay(more);
  EXPECT_TRUE(at::equal(added, at::full({3}, 3.0)));
  operand.fill_(5.0);
  graphs.replay(twice);
  EXPECT_TRUE(at::equal(doubled, at::full({3}, 10.0)));
  EXPECT_TRUE(at::equal(added, at::full({3}, 3.0)));
}

}  // namespace
}  // namespace swiattn
