// What is out of date, or damaged, is kept under another name beside what takes its place.
#pragma once

#include <string>
#include <string_view>

#include "base/file_system.h"
#include "base/log.h"

namespace swiattn {

// PATH.KIND (.KIND-2, … when that name is taken): where what is at PATH can be kept.
std::string path_aside(const std::string& path, std::string_view kind);

// Renames PARENT/NAME to its path_aside() and warns with the reason and the new name. What cannot
// be renamed stays, as the warning says then.
void set_aside(FileSystem& files, Log& log, const std::string& parent, const std::string& name,
               std::string_view kind, std::string_view reason);

}  // namespace swiattn
