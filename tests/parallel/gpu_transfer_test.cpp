// Copies that nobody waits for, on a GPU that is busy.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>

#include "parallel/device_moment.h"
#include "parallel/transfer.h"

namespace swiattn {
namespace {

// Some hundred milliseconds of work.
void keep_busy() {
  const at::Tensor a =
      at::ones({8192, 8192}, at::TensorOptions().dtype(at::kFloat).device(at::kCUDA));
  for (int i = 0; i < 20; ++i) at::mm(a, a);
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

TEST(GpuTransferTest, KeepsTypesShapesAndValues) {
  const std::vector<at::Tensor> sent = {
      at::arange(37, at::kInt),      at::arange(12, at::kLong).view({3, 4}),
      at::empty({0}, at::kInt),      at::full({}, 2.5, at::kDouble),
      at::arange(5, at::kFloat) > 2, at::arange(1'000'003, at::kInt)};
  const std::vector<at::Tensor> arrived = upload(sent, at::kCUDA);
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(arrived[i].scalar_type(), sent[i].scalar_type());
    EXPECT_TRUE(arrived[i].is_cuda());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arrived[i].data_ptr()) % 256, 0U);
    EXPECT_TRUE(at::equal(arrived[i].cpu(), sent[i])) << i;
    const at::Tensor back = download(arrived[i]);
    DeviceMoment(at::kCUDA).wait();
    EXPECT_TRUE(at::equal(back, sent[i])) << i;
  }
}

// Buffers that go out of scope while they are still to be copied keep their contents until then.
TEST(GpuTransferTest, DoesNotMixUpCopiesThatAreStillWaiting) {
  keep_busy();
  std::vector<at::Tensor> arrived, back;
  for (int i = 0; i < 50; ++i) {
    arrived.push_back(upload({at::full({10'000}, i, at::kInt)}, at::kCUDA).front());
    back.push_back(download(arrived.back()));
  }
  DeviceMoment(at::kCUDA).wait();
  for (int i = 0; i < 50; ++i) {
    EXPECT_TRUE(at::equal(back[static_cast<size_t>(i)], at::full({10'000}, i, at::kInt))) << i;
  }
}

TEST(GpuTransferTest, NobodyWaits) {
  const at::Tensor values = at::arange(100'000, at::kInt);
  for (const bool first : {true, false}) {  // the first round makes kernels and pinned memory
    const DeviceMoment begin(at::kCUDA);
    const double start = now();
    keep_busy();
    const at::Tensor there = upload({values}, at::kCUDA).front();
    const at::Tensor back = download(there);
    const DeviceMoment end(at::kCUDA);
    const double handed_over = now() - start;
    end.wait();
    const double device = end.seconds_since(begin);
    EXPECT_TRUE(at::equal(back, values));
    if (first) continue;
    EXPECT_GT(device, 0.02);
    EXPECT_LT(handed_over, 0.25 * device);
    EXPECT_NEAR(device, now() - start, 0.2 * device);
  }
}

}  // namespace
}  // namespace swiattn
