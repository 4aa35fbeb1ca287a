// The names inside a run's checkpoints folder, and the two ways in which they change hands.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/file_system.h"
#include "base/log.h"

namespace swiattn {

// 500 → "step-00000500"; wider from step 100,000,000 on.
std::string checkpoint_folder_name(int64_t step);

// The reverse, for exactly the names that checkpoint_folder_name gives.
std::optional<int64_t> step_of_folder_name(std::string_view name);

// "step-00000500.tmp.<32 random hexadecimal digits>": being written, or being removed.
std::string temporary_name(int64_t step);
bool is_temporary_name(std::string_view name);

std::string path_of_manifest(const std::string& checkpoint_folder);

// PATH.KIND (.KIND-2, … when that exists): where what is at PATH can be kept.
std::string path_aside(const std::string& path, std::string_view kind);

// Renames PARENT/NAME to its path_aside(), never deleting it, and warns with the reason. A folder
// that cannot be renamed stays, with another warning.
void set_aside(FileSystem& files, Log& log, const std::string& parent, const std::string& name,
               std::string_view kind, std::string_view reason);

// Replaces PARENT/LATEST. People and scripts read it, the loader does not depend on it, so a
// failure is only a warning.
void point_latest_at(FileSystem& files, Log& log, const std::string& parent,
                     const std::string& name);

}  // namespace swiattn
