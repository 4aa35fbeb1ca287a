#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace swiattn {
namespace {

// How far `step` is on its way from `begin` (0) to `end` (1).
double progress(int64_t step, int64_t begin, int64_t end) {
  if (step <= begin) return 0.0;
  return std::min(1.0, static_cast<double>(step - begin) / static_cast<double>(end - begin));
}

}  // namespace

double Schedule::learning_rate(int64_t step) const {
  if (step <= warmup_steps) {
    return peak * static_cast<double>(step) / static_cast<double>(warmup_steps);
  }
  const double last = final_ratio * peak;
  switch (kind) {
    case ScheduleKind::kCosine: {
      const double x = progress(step, warmup_steps, steps);
      return last + (peak - last) * 0.5 * (1.0 + std::cos(std::numbers::pi * x));
    }
    case ScheduleKind::kLinear:
      return peak + (last - peak) * progress(step, warmup_steps, steps);
    case ScheduleKind::kWsd: {
      const int64_t decay_begin = std::max(warmup_steps, steps - decay_steps);
      return peak + (last - peak) * progress(step, decay_begin, steps);
    }
    case ScheduleKind::kConstant:
      break;
  }
  return peak;
}

}  // namespace swiattn
