#include "benchmarks/gpu_time.h"

#include <ATen/cuda/CUDAEvent.h>

#include <algorithm>
#include <vector>

namespace swiattn {

double median_microseconds(int repeats, const std::function<void()>& run) {
  constexpr int kWarmUps = 3;
  for (int i = 0; i < kWarmUps; ++i) run();
  std::vector<at::cuda::CUDAEvent> marks;
  const auto mark = [&] { marks.emplace_back(cudaEventDefault).record(); };
  mark();
  for (int i = 0; i < repeats; ++i) {
    run();
    mark();
  }
  marks.back().synchronize();
  std::vector<double> times;
  for (size_t i = 1; i < marks.size(); ++i) {
    times.push_back(1e3 * marks[i - 1].elapsed_time(marks[i]));
  }
  const auto middle = times.begin() + repeats / 2;
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

}  // namespace swiattn
