// The learning rate as a pure function of the step (steps count from 1).
#pragma once

#include <cstdint>

namespace swiattn {

enum class ScheduleKind {
  kCosine,    // half a cosine from the peak to the final rate
  kLinear,    // a straight line between them
  kWsd,       // warm-up, stable, decay: the peak until the last `decay_steps`, then a straight line
  kConstant,  // the peak
};

struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double peak = 0.0;
  double final_ratio = 0.1;  // of the peak, reached at the last step
  int64_t steps = 0;         // of the run
  int64_t warmup_steps = 0;  // lr = peak * k / warmup for k <= warmup
  int64_t decay_steps = 0;   // kWsd

  double learning_rate(int64_t step) const;
};

}  // namespace swiattn
