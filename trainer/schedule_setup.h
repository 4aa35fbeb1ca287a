// From the configuration of a run to its learning rates.
#pragma once

#include "optim/schedule.h"
#include "trainer/run_config.h"

namespace swiattn {

Schedule make_schedule(const RunConfig& config);

}  // namespace swiattn
