// A checkpoint being written: invisible to readers until commit(), gone unless committed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/file_system.h"
#include "base/log.h"
#include "checkpoint/manifest.h"

namespace swiattn {

// Made by CheckpointStore::begin(). Every failure is a FileError whose disk_full() tells a full
// disk from the rest; whatever fails, the checkpoints committed before stay as they are, and the
// destructor removes what was written. The trainer logs the failure, keeps training and saves again
// later.
class CheckpointWriter {
 public:
  // Makes the temporary folder PARENT/step-XXXXXXXX.tmp.<uuid>.
  CheckpointWriter(FileSystem& files, Log& log, std::string parent, int64_t step);
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Where to write the payload file `name`. The caller syncs and closes it, then calls add().
  std::string path(std::string_view name) const;

  // Records a file written at path(name): its size and the XXH3-64 of all its bytes.
  void add(std::string_view name, uint64_t bytes, uint64_t hash);

  // Writes, syncs and records a small file.
  void add_text(std::string_view name, std::string_view contents);

  // Makes the checkpoint durable and visible: manifest, sync of file and folder, rename, sync of
  // the parent, LATEST. After a crash at any point the store holds either all of it or nothing.
  // Returns the folder. A valid checkpoint of the same step that is already there is kept, and this
  // one dropped; a damaged one makes way as step-XXXXXXXX.corrupt.
  std::string commit(const ManifestFields& fields);

  const std::string& folder() const { return folder_; }

 private:
  void discard();
  bool make_way(const std::string& target);

  FileSystem& files_;
  Log& log_;
  std::string parent_;
  int64_t step_;
  std::string folder_;
  Manifest manifest_;
  bool finished_ = false;  // committed or dropped: nothing left to remove
};

}  // namespace swiattn
