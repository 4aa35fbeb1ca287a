#include "base/path_aside.h"

#include <filesystem>
#include <system_error>

#include "base/error.h"

namespace swiattn {
namespace {

// By anything, even a link to nowhere.
bool is_taken(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
}

}  // namespace

std::string path_aside(const std::string& path, std::string_view kind) {
  std::string aside = fmt::format("{}.{}", path, kind);
  for (int i = 2; is_taken(aside); ++i) aside = fmt::format("{}.{}-{}", path, kind, i);
  return aside;
}

void set_aside(FileSystem& files, Log& log, const std::string& parent, const std::string& name,
               std::string_view kind, std::string_view reason) {
  const std::string path = parent + "/" + name;
  const std::string aside = path_aside(path, kind);
  try {
    files.rename(path, aside);
  } catch (const FileError& error) {
    log.warning("{} It cannot be renamed: {}", reason, error.what());
    return;
  }
  log.warning("{} It is kept as {}.", reason, aside);
  try {
    files.sync_folder(parent);
  } catch (const FileError& error) {
    log.warning("{}", error.what());
  }
}

}  // namespace swiattn
