#include "trainer/schedule_setup.h"

#include <utility>

namespace swiattn {

Schedule make_schedule(const RunConfig& config) {
  static constexpr std::pair<ScheduleSection::Kind, ScheduleKind> kKinds[] = {
      {ScheduleSection::Kind::kCosine, ScheduleKind::kCosine},
      {ScheduleSection::Kind::kLinear, ScheduleKind::kLinear},
      {ScheduleSection::Kind::kWsd, ScheduleKind::kWsd},
      {ScheduleSection::Kind::kConstant, ScheduleKind::kConstant}};
  Schedule schedule{.peak = config.optimizer.learning_rate,
                    .final_ratio = config.schedule.final_ratio,
                    .steps = config.total_steps(),
                    .warmup_steps = config.warmup_steps(),
                    .decay_steps = config.decay_steps()};
  for (const auto& [name, kind] : kKinds) {
    if (name == config.schedule.kind) schedule.kind = kind;
  }
  return schedule;
}

}  // namespace swiattn
