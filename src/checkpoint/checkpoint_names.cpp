#include "checkpoint/checkpoint_names.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/manifest.h"

namespace swiattn {
namespace {

constexpr std::string_view kTemporary = ".tmp.";

}  // namespace

std::string checkpoint_folder_name(int64_t step) { return fmt::format("step-{:08}", step); }

std::optional<int64_t> step_of_folder_name(std::string_view name) {
  constexpr std::string_view kPrefix = "step-";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  int64_t step = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || step < 0 || checkpoint_folder_name(step) != name) {
    return std::nullopt;
  }
  return step;
}

std::vector<int64_t> saved_steps(const std::string& checkpoints) {
  std::vector<int64_t> steps;
  if (!folder_exists(checkpoints)) return steps;
  for (const std::string& name : list_folder(checkpoints, ExitCode::kCheckpoint)) {
    if (const std::optional<int64_t> step = step_of_folder_name(name)) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string temporary_name(int64_t step) {
  return fmt::format("{}{}{}", checkpoint_folder_name(step), kTemporary, random_digits());
}

bool is_temporary_name(std::string_view name) {
  const size_t at = name.find(kTemporary);
  return at != std::string_view::npos && step_of_folder_name(name.substr(0, at)).has_value();
}

std::string path_of_manifest(const std::string& checkpoint_folder) {
  return fmt::format("{}/{}", checkpoint_folder, kManifestName);
}

void point_latest_at(FileSystem& files, Log& log, const std::string& parent,
                     const std::string& name) {
  try {
    write_file_atomically(files, parent + "/LATEST", name + "\n");
  } catch (const FileError& error) {
    log.warning("{} The file LATEST may name an older checkpoint.", error.what());
  }
}

}  // namespace swiattn
