// A profile for people (kernels.txt) and for programs (kernels.json).
#pragma once

#include <string>

#include "base/json.h"
#include "trainer/profile_summary.h"

namespace swiattn {

// The profiled steps and where they ran.
struct ProfileTitle {
  int64_t first_step = 0;
  std::string device;
};

// "steps 11 to 13", "step 11".
std::string profiled_steps(int64_t first, int64_t count);

// A table of kernels (without a GPU: operators), one of phases; ends in a newline.
std::string profile_text(const ProfileSummary& summary, const ProfileTitle& title);

// {"schema", "first_step", "steps", "device", "on_gpu", "step_milliseconds", "idle_share",
//  "phases": [{"name", "gpu_milliseconds", "host_milliseconds", "share"}],
//  "kernels": [{"name", "full_name", "calls", "mean_microseconds", "milliseconds", "share"}]}
// with the meanings of ProfileSummary.
nlohmann::ordered_json profile_json(const ProfileSummary& summary, const ProfileTitle& title);

}  // namespace swiattn
