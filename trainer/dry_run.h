// What a run would be, without a GPU, a run folder or the model's weights.
#pragma once

#include <string>

#include "trainer/run_config.h"

namespace swiattn {

// Parameters, the memory that they and the layers' activations take on each rank, tokens a step,
// schedule and the resolved configuration, for `ranks` ranks. Opens the data and the model's
// config.json, so that what is wrong with them shows here. Throws Error.
std::string describe_dry_run(const RunConfig& config, int ranks);

}  // namespace swiattn
