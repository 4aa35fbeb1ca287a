#include "benchmarks/gpu_time.h"

#include <ATen/cuda/CUDAEvent.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace swiattn {
namespace {

constexpr int kWarmUps = 3;

double mean_microseconds(int repeats, const std::function<void()>& run) {
  at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
  begin.record();
  for (int i = 0; i < repeats; ++i) run();
  end.record();
  end.synchronize();
  return 1e3 * begin.elapsed_time(end) / repeats;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

}  // namespace

double median_microseconds(int repeats, const std::function<void()>& run) {
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
  return median(std::move(times));
}

double sustained_microseconds(double milliseconds, const std::function<void()>& run) {
  mean_microseconds(kWarmUps, run);
  const double estimate = mean_microseconds(kWarmUps, run);
  return mean_microseconds(static_cast<int>(1e3 * milliseconds / estimate) + 1, run);
}

}  // namespace swiattn
