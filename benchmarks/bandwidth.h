// How close a kernel comes to the memory's rate: timed with events on the GPU, printed beside a
// copy on the same device.
#pragma once

#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/cuda_check.h"

namespace swiattn {

// The median of ten runs in microseconds, after two that warm up.
template <class Run>
double median_microseconds(const Run& run) {
  constexpr int kWarmUps = 2, kRuns = 10;
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream().stream();
  std::vector<cudaEvent_t> marks(kRuns + 1);
  for (cudaEvent_t& mark : marks) SWIATTN_CHECK_CUDA(cudaEventCreate(&mark));
  for (int i = 0; i < kWarmUps; ++i) run();
  SWIATTN_CHECK_CUDA(cudaEventRecord(marks[0], stream));
  for (int i = 0; i < kRuns; ++i) {
    run();
    SWIATTN_CHECK_CUDA(cudaEventRecord(marks[i + 1], stream));
  }
  SWIATTN_CHECK_CUDA(cudaEventSynchronize(marks.back()));
  std::vector<float> milliseconds(kRuns);
  for (int i = 0; i < kRuns; ++i) {
    SWIATTN_CHECK_CUDA(cudaEventElapsedTime(&milliseconds[i], marks[i], marks[i + 1]));
  }
  for (const cudaEvent_t mark : marks) SWIATTN_CHECK_CUDA(cudaEventDestroy(mark));
  std::sort(milliseconds.begin(), milliseconds.end());
  return 1e3 * milliseconds[kRuns / 2];
}

// GB/s of a device copy of a gigabyte, read and written.
inline double copy_rate() {
  static const double rate = [] {
    const at::Tensor from = at::zeros({1 << 28}, at::TensorOptions().device(at::kCUDA));
    const at::Tensor to = at::empty_like(from);
    return 2e-3 * static_cast<double>(from.nbytes()) / median_microseconds([&] { to.copy_(from); });
  }();
  return rate;
}

// Prints what `run` takes, given the bytes that it cannot avoid to read and write.
template <class Run>
void print_bandwidth(const std::string& name, double bytes, const Run& run) {
  const double microseconds = median_microseconds(run);
  const double rate = 1e-3 * bytes / microseconds;
  fmt::print("{:40} {:8.1f} us {:7.0f} GB/s {:5.2f} of a copy\n", name, microseconds, rate,
             rate / copy_rate());
}

}  // namespace swiattn
