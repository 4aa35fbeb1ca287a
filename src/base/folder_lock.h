// The lock of a folder that one process at a time may write, such as that of a run.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace swiattn {

// Held from construction to destruction. The lock is an flock on the file `.lock` in the folder,
// which the kernel releases however the process ends; the file's text, process and host, is for
// people.
class FolderLock {
 public:
  // Waits up to `patience` for a process that is just ending. Throws Error{kConfiguration} naming
  // the holder when another one keeps the lock, and FileError{kCheckpoint} when the folder cannot
  // be written.
  explicit FolderLock(const std::string& folder,
                      std::chrono::milliseconds patience = std::chrono::seconds(5));
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  // Who holds the lock of a folder just now, if anybody does and this user may see it. Writes
  // nothing.
  static std::optional<std::string> holder(const std::string& folder);

 private:
  int lock_ = -1;  // descriptor of .lock
};

}  // namespace swiattn
