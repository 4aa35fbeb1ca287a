// The checkpoints of one run: RUN/checkpoints/step-XXXXXXXX/, each whole or absent.
//
// docs/checkpoint-format.md has the layout and the protocol, docs/failure-handling.md what survives
// which failure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/log.h"
#include "checkpoint/checkpoint_writer.h"
#include "checkpoint/saved_checkpoint.h"

namespace swiattn {

// Used by one thread of one process: the one that holds the lock of the run's folder.
class CheckpointStore {
 public:
  // `folder` is RUN/checkpoints; it is made by the first save. Borrows the others.
  CheckpointStore(FileSystem& files, std::string folder, Log& log);

  // Starts the checkpoint of a step, of which some `expected_bytes` will be written. Throws a
  // FileError: one with disk_full() when the disk has less room than that. At most one writer of a
  // store may be alive.
  CheckpointWriter begin(int64_t step, uint64_t expected_bytes);

  // The newest checkpoint whose manifest, sizes and hashes verify; nothing when none was ever
  // saved. A folder of a step that does not verify is warned about and renamed to
  // step-XXXXXXXX.corrupt. Throws Error{kCheckpoint} when all are damaged, and when one is of a
  // newer format or may not be read: none of that is a reason to start from the beginning.
  std::optional<SavedCheckpoint> newest_valid();

  // After resuming from an older step of this run by an explicit path: renames the checkpoints of
  // later steps to step-XXXXXXXX.superseded, so that an automatic resume does not go back to what
  // was abandoned. Call it before the first step is trained.
  void set_newer_aside(int64_t step);

  // Removes all but the newest `keep_last` checkpoints and those whose step is a multiple of
  // `keep_every`, oldest first. One that fails `test` neither counts nor is removed. Returns the
  // steps removed. Throws FileError: nothing that was to be kept is then lost. A folder that cannot
  // be deleted whole is a leftover from then on.
  std::vector<int64_t> prune(int64_t keep_last, std::optional<int64_t> keep_every,
                             CheckpointTest test = CheckpointTest::kSizes);

  // Removes what dead writers left, step-*.tmp.*, or warns where it cannot. The lock of the run's
  // folder makes sure that nobody is writing them. begin() does the same.
  void remove_leftovers();

  // The steps of all folders named as checkpoints, in order, whole or not.
  std::vector<int64_t> steps() const;

  std::string path(int64_t step) const;

 private:
  void remove_leftover(const std::string& leftover);
  void warn_if_latest_is_gone() const;

  FileSystem& files_;
  std::string folder_;
  Log& log_;
};

// Where no checkpoint in RUN/checkpoints verifies: throws Error{kCheckpoint} if there were any. A
// run that lost all its checkpoints is no new run, and starting it again would overwrite its
// records.
void refuse_if_checkpoints_are_lost(const std::string& checkpoints);

}  // namespace swiattn
