// The names inside a run's checkpoints folder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/log.h"

namespace swiattn {

// 500 → "step-00000500"; wider from step 100,000,000 on.
std::string checkpoint_folder_name(int64_t step);

// The reverse, for exactly the names that checkpoint_folder_name gives.
std::optional<int64_t> step_of_folder_name(std::string_view name);

// The steps of all folders in `checkpoints` that are named so, in order, whole or not; none where
// that folder is missing.
std::vector<int64_t> saved_steps(const std::string& checkpoints);

// "step-00000500.tmp.<32 random hexadecimal digits>": being written, or being removed.
std::string temporary_name(int64_t step);
bool is_temporary_name(std::string_view name);

std::string path_of_manifest(const std::string& checkpoint_folder);

// Replaces PARENT/LATEST. People and scripts read it, the loader does not depend on it, so a
// failure is only a warning.
void point_latest_at(FileSystem& files, Log& log, const std::string& parent,
                     const std::string& name);

}  // namespace swiattn
