// What a run would be, without its folder or the model's weights.
#pragma once

#include <c10/core/Device.h>

#include <string>

#include "trainer/run_config.h"

namespace swiattn {

// Parameters, the memory that they and the layers' activations take on each rank, how the ranks
// compute, tokens a step, schedule, warnings and the resolved configuration, for `ranks` ranks on
// such a device. Opens the data and the model's config.json and tries run.folder, so that what is
// wrong with them, or with attention.backend on this device, shows here. Throws Error.
std::string describe_dry_run(const RunConfig& config, c10::Device device, int ranks);

}  // namespace swiattn
