#include "checkpoint/checkpoint_store.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/error.h"
#include "base/path_aside.h"
#include "base/text.h"
#include "checkpoint/checkpoint_names.h"

namespace swiattn {
namespace {

void check_free_space(const std::string& folder, uint64_t expected_bytes) {
  const uint64_t free = free_bytes(folder);
  if (free >= expected_bytes) return;
  throw FileError(
      ExitCode::kCheckpoint,
      fmt::format("{}: a checkpoint needs some {} and the disk has {} left. Make room, or "
                  "lower checkpoint.keep_last.",
                  folder, readable_bytes(expected_bytes), readable_bytes(free)),
      ENOSPC);
}

bool passes(const std::string& folder, CheckpointTest test) {
  try {
    const SavedCheckpoint checkpoint(folder, test);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::vector<int64_t> newest_first(std::vector<int64_t> steps) {
  std::reverse(steps.begin(), steps.end());
  return steps;
}

}  // namespace

CheckpointStore::CheckpointStore(FileSystem& files, std::string folder, Log& log)
    : files_(files), folder_(std::move(folder)), log_(log) {}

CheckpointWriter CheckpointStore::begin(int64_t step, uint64_t expected_bytes) {
  files_.make_folders(folder_);
  remove_leftovers();
  check_free_space(folder_, expected_bytes);
  return CheckpointWriter(files_, log_, folder_, step);
}

std::optional<SavedCheckpoint> CheckpointStore::newest_valid() {
  warn_if_latest_is_gone();
  bool fell_back = false;
  for (const int64_t step : newest_first(steps())) {
    try {
      SavedCheckpoint checkpoint(path(step), CheckpointTest::kHashes);
      if (fell_back) {
        log_.warning("Falling back to {}: the steps after it are lost.", checkpoint.folder());
        point_latest_at(files_, log_, folder_, checkpoint_folder_name(step));
      }
      return checkpoint;
    } catch (const Error& error) {
      if (!is_damage(error)) throw;  // going on from an older one would waste it
      set_aside(files_, log_, folder_, checkpoint_folder_name(step), "corrupt", error.what());
      fell_back = true;
    }
  }
  refuse_if_checkpoints_are_lost(folder_);
  return std::nullopt;
}

void CheckpointStore::set_newer_aside(int64_t step) {
  bool moved = false;
  for (const int64_t later : newest_first(steps())) {
    if (later <= step) break;
    set_aside(files_, log_, folder_, checkpoint_folder_name(later), "superseded",
              fmt::format("The run goes on from step {}, before step {}.", step, later));
    moved = true;
  }
  if (moved) point_latest_at(files_, log_, folder_, checkpoint_folder_name(step));
}

std::vector<int64_t> CheckpointStore::prune(int64_t keep_last, std::optional<int64_t> keep_every,
                                            CheckpointTest test) {
  SWIATTN_CHECK(keep_last >= 1, "keep_last is {}", keep_last);
  SWIATTN_CHECK(keep_every.value_or(1) >= 1, "keep_every is {}", *keep_every);
  std::vector<int64_t> doomed;
  int64_t whole = 0;
  for (const int64_t step : newest_first(steps())) {
    if (!passes(path(step), test)) continue;
    const bool is_milestone = keep_every && step % *keep_every == 0;
    if (++whole > keep_last && !is_milestone) doomed.push_back(step);
  }
  std::reverse(doomed.begin(), doomed.end());
  for (const int64_t step : doomed) {
    // Under its own name a half-removed checkpoint would look damaged. Under this one it is a
    // leftover, once the new name is on disk.
    const std::string leftover = folder_ + "/" + temporary_name(step);
    files_.rename(path(step), leftover);
    files_.sync_folder(folder_);
    remove_leftover(leftover);
  }
  return doomed;
}

void CheckpointStore::remove_leftovers() {
  if (!folder_exists(folder_)) return;
  for (const std::string& name : list_folder(folder_, ExitCode::kCheckpoint)) {
    if (is_temporary_name(name)) remove_leftover(folder_ + "/" + name);
  }
}

// What cannot be removed (a file that somebody still reads, over NFS) only costs room: it must not
// stand in the way of the next save.
void CheckpointStore::remove_leftover(const std::string& leftover) {
  try {
    files_.remove_folder_tree(leftover);
  } catch (const FileError& error) {
    log_.warning("{} It is tried again at the next save.", error.what());
  }
}

std::vector<int64_t> CheckpointStore::steps() const { return saved_steps(folder_); }

std::string CheckpointStore::path(int64_t step) const {
  return folder_ + "/" + checkpoint_folder_name(step);
}

void CheckpointStore::warn_if_latest_is_gone() const {
  const std::string latest = folder_ + "/LATEST";
  if (!file_exists(latest)) return;
  std::string name = read_file(latest, ExitCode::kCheckpoint);
  if (name.ends_with('\n')) name.pop_back();
  if (!step_of_folder_name(name) || !folder_exists(folder_ + "/" + name)) {
    log_.warning(
        "{} names '{}', which is not in that folder. The newest checkpoint that is there and "
        "whole is used.",
        latest, name);
  }
}

void refuse_if_checkpoints_are_lost(const std::string& checkpoints) {
  if (!folder_exists(checkpoints)) return;
  for (const std::string& name : list_folder(checkpoints, ExitCode::kCheckpoint)) {
    if (name.find(".corrupt") == std::string::npos && !step_of_folder_name(name)) continue;
    fail(ExitCode::kCheckpoint,
         "{}: no checkpoint of this run verifies; what is left of them is kept there. Choose "
         "another run.folder to start anew, or move the damaged ones away.",
         checkpoints);
  }
}

}  // namespace swiattn
