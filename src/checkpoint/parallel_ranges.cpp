#include "checkpoint/parallel_ranges.h"

#include <algorithm>
#include <thread>
#include <vector>

namespace swiattn {

void parallel_ranges(int64_t count, int64_t grain,
                     const std::function<void(int64_t begin, int64_t end)>& body) {
  const int64_t grains = (count + grain - 1) / grain;
  const int64_t cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t threads = std::min(cores, grains);
  if (threads <= 1) {
    if (count > 0) body(0, count);
    return;
  }
  const auto boundary = [&](int64_t thread) {
    return std::min(count, grains * thread / threads * grain);
  };
  std::vector<std::jthread> workers;
  for (int64_t thread = 1; thread < threads; ++thread) {
    workers.emplace_back([&, thread] { body(boundary(thread), boundary(thread + 1)); });
  }
  body(0, boundary(1));
}

}  // namespace swiattn
