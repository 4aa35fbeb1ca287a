// Files as the project needs them: durable writes, atomic replacement, positioned and mapped reads.
// All writing goes through `FileSystem`, so that tests can make any call fail at any moment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace swiattn {

// A failed operation on a file. `system_error()` is the errno value, so that a caller can tell a
// full disk (ENOSPC, EDQUOT) from the rest.
class FileError : public Error {
 public:
  FileError(ExitCode code, const std::string& sentence, int system_error)
      : Error(code, sentence), system_error_(system_error) {}
  int system_error() const { return system_error_; }
  bool disk_full() const;

 private:
  int system_error_;
};

// Throws the FileError "'PATH' cannot be ACTION: REASON.", the reason being that of an errno value.
[[noreturn]] void fail_file(ExitCode code, const std::string& path, const char* action, int error);

// A file being written from start to end. Closing without sync() promises nothing about a crash.
// The destructor closes and ignores errors: call close() to learn of them.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual void append(const void* bytes, size_t count) = 0;
  virtual void sync() = 0;  // fsync: the bytes survive a power cut
  virtual void close() = 0;
  void append(std::string_view text) { append(text.data(), text.size()); }
};

// Operations on paths. Thread-safe. Every failure is a FileError naming the path; its code is
// kCheckpoint unless said otherwise.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Creates or truncates.
  virtual std::unique_ptr<WritableFile> create(const std::string& path) = 0;
  // Creates when missing, writes at the end otherwise.
  virtual std::unique_ptr<WritableFile> open_for_append(const std::string& path) = 0;
  virtual void rename(const std::string& from, const std::string& to) = 0;
  virtual void remove_file(const std::string& path) = 0;
  virtual void remove_folder_tree(const std::string& path) = 0;  // a missing one is no error
  virtual void make_folders(const std::string& path) = 0;        // like mkdir -p, parents synced
  virtual void sync_folder(const std::string& path) = 0;  // makes renames and creations durable
  virtual void truncate(const std::string& path, uint64_t bytes) = 0;

  // The real file system of this machine.
  static FileSystem& posix();
  static FileSystem& posix_of_data();  // whose failures are FileErrors{kData}: for shards and texts
};

// Reading never goes wrong halfway, so these are plain functions. Errors carry `code`.
bool file_exists(const std::string& path);
bool folder_exists(const std::string& path);
uint64_t file_size(const std::string& path, ExitCode code);
uint64_t free_bytes(const std::string& folder);
std::vector<std::string> list_folder(const std::string& path, ExitCode code);  // names, sorted
std::string read_file(const std::string& path, ExitCode code, uint64_t limit = 1ULL << 30);

// Replaces `path` by `contents`: writes `path`.tmp (so one writer at a time), fsync, rename, fsync
// of the folder. After a crash the file holds the old contents or the new, never a mixture.
void write_file_atomically(FileSystem& files, const std::string& path, std::string_view contents);

// A whole file mapped read-only. An empty file gives an empty view. Movable.
class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(const std::string& path, ExitCode code);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  void unmap() noexcept;
  const std::byte* data_ = nullptr;
  uint64_t size_ = 0;
  std::string path_;
};

}  // namespace swiattn
