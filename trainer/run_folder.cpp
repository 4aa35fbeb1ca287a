#include "trainer/run_folder.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/checkpoint_names.h"

namespace swiattn {
namespace {

[[noreturn]] void refuse_folder(const std::string& path, const std::string& reason) {
  fail(ExitCode::kConfiguration,
       "run.folder: '{}' cannot be used: {} Choose a folder that this user can write.", path,
       reason);
}

// Of what earlier runs or others have left in the folder, what this run could not go on with. Tells
// it before anything is renamed or trained.
void refuse_what_is_in_the_way(const std::string& path) {
  struct Entry {
    const char* name;
    bool is_folder, is_written_into;
  };
  for (const auto& [name, is_folder, is_written_into] :
       {Entry{"checkpoints", true, true}, Entry{"hybrid", true, false},
        Entry{"metrics.jsonl", false, true}, Entry{"run.log", false, true},
        Entry{"config.yaml", false, false}, Entry{"config.resolved.yaml", false, false},
        Entry{"environment.json", false, false}, Entry{"status.json", false, false}}) {
    const std::string there = path + "/" + name;
    if (is_folder ? file_exists(there) : folder_exists(there)) {
      fail(ExitCode::kConfiguration,
           "{} is a {}, where the run has a {} of this name: move it away, or choose another "
           "run.folder.",
           there, is_folder ? "file" : "folder", is_folder ? "folder" : "file");
    }
    if (is_written_into && ::access(there.c_str(), W_OK) != 0 && errno != ENOENT) {
      fail(ExitCode::kConfiguration,
           "{} cannot be written: {}. Let this user write it, or choose another run.folder.", there,
           std::generic_category().message(errno));
    }
  }
}

}  // namespace

RunFolder::RunFolder(FileSystem& files, std::string path, std::chrono::milliseconds patience)
    : files_(files), path_(std::move(path)) {
  while (path_.size() > 1 && path_.ends_with('/')) path_.pop_back();
  try {
    files_.make_folders(path_);
    lock_.emplace(path_, patience);
  } catch (const FileError& error) {
    refuse_folder(path_, error.what());
  }
  refuse_what_is_in_the_way(path_);
}

bool holds_a_run(const std::string& path) {
  const std::string metrics = path + "/metrics.jsonl", checkpoints = path + "/checkpoints";
  if (file_exists(metrics) && file_size(metrics, ExitCode::kConfiguration) > 0) return true;
  if (!folder_exists(checkpoints)) return false;
  for (const std::string& name : list_folder(checkpoints, ExitCode::kConfiguration)) {
    if (name.starts_with("step-") && !is_temporary_name(name)) return true;
  }
  return false;
}

void try_run_folder(FileSystem& files, const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path whole = fs::absolute(path, error);
  if (!error) whole = fs::weakly_canonical(whole, error);
  if (error) refuse_folder(path, error.message() + ".");
  fs::path there = whole;
  for (; !folder_exists(there); there = there.parent_path()) {
    if (fs::exists(fs::symlink_status(there, error))) {
      refuse_folder(path, fmt::format("'{}' is a file, or a link to nowhere.", there.string()));
    }
  }
  const std::string trial = there / (".dry-run." + random_digits());
  std::optional<std::string> refusal;
  const auto attempt = [&](const auto& operation) {
    try {
      operation();
    } catch (const FileError& failure) {
      if (!refusal) refusal = fmt::format("in a trial, {}", failure.what());
    }
  };
  attempt([&] { files.make_folders(trial / whole.lexically_relative(there)); });
  attempt([&] { files.remove_folder_tree(trial); });
  if (refusal) refuse_folder(path, *refusal);
  refuse_what_is_in_the_way(path);
}

void RunFolder::describe(std::string_view config, std::string_view resolved_config,
                         const nlohmann::ordered_json& environment) {
  write_file_atomically(files_, path_ + "/config.yaml", config);
  write_file_atomically(files_, path_ + "/config.resolved.yaml", resolved_config);
  write_file_atomically(files_, path_ + "/environment.json", dump_json(environment, 2) + "\n");
}

}  // namespace swiattn
