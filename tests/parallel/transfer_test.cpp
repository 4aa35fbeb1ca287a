#include "parallel/transfer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "parallel/device_moment.h"

namespace swiattn {
namespace {

std::vector<at::Tensor> samples() {
  return {at::arange(37, at::kInt),      at::arange(12, at::kLong).view({3, 4}),
          at::empty({0}, at::kInt),      at::full({}, 2.5, at::kDouble),
          at::arange(5, at::kFloat) > 2, at::arange(100'000, at::kInt)};
}

TEST(TransferTest, KeepsTypesShapesAndValues) {
  const std::vector<at::Tensor> sent = samples();
  const std::vector<at::Tensor> arrived = upload(sent, at::kCPU);
  ASSERT_EQ(arrived.size(), sent.size());
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(arrived[i].scalar_type(), sent[i].scalar_type());
    EXPECT_TRUE(at::equal(arrived[i], sent[i])) << i;
    EXPECT_TRUE(arrived[i].is_contiguous());
    EXPECT_EQ(arrived[i].storage_offset() * arrived[i].element_size() % 256, 0);
  }
}

TEST(TransferTest, ReadsItsSourceBeforeItReturns) {
  const at::Tensor source = at::arange(1000, at::kInt);
  const at::Tensor arrived = upload({source}, at::kCPU).front();
  const at::Tensor back = download(arrived);
  source.zero_();
  EXPECT_TRUE(at::equal(arrived, at::arange(1000, at::kInt)));
  arrived.zero_();
  EXPECT_TRUE(at::equal(back, at::arange(1000, at::kInt)));
}

TEST(TransferTest, UploadsNothing) { EXPECT_TRUE(upload({}, at::kCPU).empty()); }

TEST(DeviceMomentTest, MeasuresTheTimeBetweenMoments) {
  const DeviceMoment first(at::kCPU);
  const DeviceMoment second(at::kCPU);
  second.wait();
  EXPECT_GE(second.seconds_since(first), 0.0);
  EXPECT_EQ(first.seconds_since(first), 0.0);
}

}  // namespace
}  // namespace swiattn
