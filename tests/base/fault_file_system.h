// A file system that goes wrong on demand: any call fails, writes stop halfway, the power is cut.
//
// Works on real files. Every call of FileSystem and of its WritableFiles is counted, so that a test
// can first count the calls of an operation and then let each of them fail in turn.
#pragma once

#include <cerrno>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/file_system.h"

namespace swiattn {

class FaultFileSystem : public FileSystem {
 public:
  enum class Fault {
    kOnce,        // this call fails and does nothing
    kLasting,     // this call and all after it fail and do nothing: a full or dead disk
    kShortWrite,  // if this call is an append, half of its bytes are written; as kOnce otherwise
    kPowerCut,    // as kLasting; lose_unsynced() then shows what a reboot would find
  };

  // What a reboot may find of creations, renames and removals whose folder was not synced. Both are
  // possible on real disks, and so is everything in between.
  enum class Names { kLost, kKept };

  // From now on call number `call` (1 is the next one) goes wrong with this errno.
  void inject(int call, Fault fault, int error = EIO);
  int calls() const;       // since the beginning or the last inject()
  bool triggered() const;  // whether the injected fault has happened

  // Cuts the power and takes from the real files what was never synced: file contents go back to
  // their last sync(), names as `names` says. All further calls fail.
  void lose_unsynced(Names names);

  std::unique_ptr<WritableFile> create(const std::string& path) override;
  std::unique_ptr<WritableFile> open_for_append(const std::string& path) override;
  void rename(const std::string& from, const std::string& to) override;
  void remove_file(const std::string& path) override;
  void remove_folder_tree(const std::string& path) override;
  void make_folders(const std::string& path) override;
  void sync_folder(const std::string& path) override;
  void truncate(const std::string& path, uint64_t bytes) override;

 private:
  class File;
  // How to undo a change of names that is not durable yet.
  struct Change {
    enum class Kind { kCreated, kRenamed, kRemoved };
    Kind kind;
    std::string path;                         // after the change
    std::string from;                         // of a rename
    std::map<std::string, std::string> lost;  // files that the change removed, by path
    std::vector<std::string> lost_folders;    // outermost first
  };

  // Count a call and throw when it is to fail. True: the append must be cut short.
  void count_call(const std::string& path);
  bool count_append(const std::string& path);
  [[noreturn]] void fail_now(const std::string& path);
  void remember_contents(const std::string& path);
  void move_synced(const std::string& from, const std::string& to);
  void collect(const std::string& path, Change& change) const;
  void undo(const Change& change);

  mutable std::mutex mutex_;
  int calls_ = 0;
  int fault_call_ = 0;
  Fault fault_ = Fault::kOnce;
  int error_ = EIO;
  std::map<std::string, std::string> synced_;  // durable contents of the files changed since
  std::vector<Change> changes_;                // oldest first
};

}  // namespace swiattn
