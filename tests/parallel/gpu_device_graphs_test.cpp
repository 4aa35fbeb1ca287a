// CUDA graphs: what is recorded is repeated on what its operands hold then, and what cannot be
// repeated is refused and leaves nothing behind.
#include "parallel/device_graphs.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <gtest/gtest.h>

#include "parallel/device.h"
#include "parallel/transfer.h"

namespace swiattn {
namespace {

const auto kOnGpu = at::TensorOptions().dtype(at::kFloat).device(at::kCUDA, 0);
const c10::Device kGpu(c10::kCUDA, 0);

TEST(GpuDeviceGraphsTest, ReplaysReadTheirOperandsAnew) {
  const at::Tensor a = at::ones({64, 64}, kOnGpu), b = at::ones({64, 64}, kOnGpu);
  at::Tensor sum;
  const auto work = [&] { sum = at::mm(a, b).add_(1.0).sum(); };
  work();  // what libraries make at first
  DeviceGraphs graphs(kGpu);
  const size_t recording = graphs.record(work);
  for (const double value : {1.0, 2.0, 0.5}) {
    a.fill_(value);
    graphs.replay(recording);
    EXPECT_EQ(sum.item<float>(), static_cast<float>(64 * 64 * (64 * value + 1)));
  }
}

TEST(GpuDeviceGraphsTest, RecordsCopiesWithinTheDeviceAndClearedMemory) {
  const at::Tensor from = at::arange(100'000, kOnGpu), to = at::empty_like(from);
  at::Tensor zeros;
  const auto work = [&] {
    to.copy_(from);
    zeros = at::zeros({1 << 20}, kOnGpu);
    zeros.narrow(0, 0, 100'000).add_(to);
  };
  work();
  DeviceGraphs graphs(kGpu);
  const size_t recording = graphs.record(work);
  for (int i = 0; i < 3; ++i) {
    from.add_(1.0);
    graphs.replay(recording);
    EXPECT_TRUE(at::equal(to, from));
    EXPECT_TRUE(at::equal(zeros.narrow(0, 0, 100'000), from)) << "cleared at every replay";
    EXPECT_EQ(zeros.narrow(0, 100'000, 1000).abs().sum().item<float>(), 0.0F);
  }
}

TEST(GpuDeviceGraphsTest, RecordingsShareTheirMemory) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  DeviceGraphs graphs(kGpu);
  const auto reserved = [] {
    return c10::cuda::CUDACachingAllocator::getDeviceStats(0).reserved_bytes[0].current;
  };
  at::ones({1000}, kOnGpu).sum();
  at::Tensor sums[4];
  int64_t first = 0;
  for (at::Tensor& sum : sums) {
    graphs.record([&] { sum = at::ones({kBytes / 4}, kOnGpu).sum(); });
    if (first == 0) first = reserved();
  }
  EXPECT_LT(reserved(), first + kBytes / 2);
  EXPECT_GE(graphs.memory_bytes(), kBytes);
  EXPECT_LT(graphs.memory_bytes(), kBytes + kBytes / 2);
  for (size_t i = 0; i < 4; ++i) graphs.replay(i);
  for (const at::Tensor& sum : sums) EXPECT_EQ(sum.item<float>(), static_cast<float>(kBytes / 4));
}

TEST(GpuDeviceGraphsTest, RefusesWhatCannotBeRepeated) {
  const at::Tensor a = at::ones({1000}, kOnGpu);
  const at::Tensor host = at::ones({1000});
  const std::vector<std::function<void()>> works = {
      [&] { a.sum().item<float>(); },
      [&] { a.add_(host.to(kGpu)); },
      [&] { a.add_(upload({host}, kGpu).front()); },
      [&] { download(a); },
      [&] { synchronize(kGpu); },
      [&] { throw std::runtime_error("of its own"); },
  };
  at::zeros_like(a).add_(a).sum();
  download(a);  // pinned memory that is at hand
  upload({host}, kGpu);
  for (size_t i = 0; i < works.size(); ++i) {
    DeviceGraphs graphs(kGpu);
    EXPECT_ANY_THROW(graphs.record(works[i])) << i;
    EXPECT_EQ(a.sum().item<float>(), 1000.0F) << "nothing was carried out, " << i;
    at::Tensor sum;
    const size_t recording = graphs.record([&] { sum = a.sum(); });  // the next one works
    graphs.replay(recording);
    EXPECT_EQ(sum.item<float>(), 1000.0F) << i;
  }
}

}  // namespace
}  // namespace swiattn
