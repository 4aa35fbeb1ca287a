#include "base/file_system.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

namespace swiattn {
namespace {

// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(const std::string& path, int flags, ExitCode code)
      : path_(path),
        code_(code),
        fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666)) {
    if (!fd_.valid()) fail_file(code_, path_, "opened for writing", errno);
  }

  void append(const void* bytes, size_t count) override {
    const char* next = static_cast<const char*>(bytes);
    while (count > 0) {
      const ssize_t written = ::write(fd_.get(), next, count);
      if (written < 0) {
        if (errno == EINTR) continue;
        fail_file(code_, path_, "written", errno);
      }
      next += written;
      count -= static_cast<size_t>(written);
    }
  }

  void sync() override {
    if (::fsync(fd_.get()) != 0) fail_file(code_, path_, "synced", errno);
  }

  void close() override {
    if (fd_.valid() && ::close(fd_.release()) != 0) {
      fail_file(code_, path_, "closed", errno);
    }
  }

 private:
  std::string path_;
  ExitCode code_;
  Descriptor fd_;
};

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

class PosixFileSystem : public FileSystem {
 public:
  explicit PosixFileSystem(ExitCode code) : code_(code) {}

  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return std::make_unique<PosixWritableFile>(path, O_TRUNC, code_);
  }

  std::unique_ptr<WritableFile> open_for_append(const std::string& path) override {
    return std::make_unique<PosixWritableFile>(path, O_APPEND, code_);
  }

  void rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) {
      fail_file(code_, from, fmt::format("renamed to '{}'", to).c_str(), errno);
    }
  }

  void remove_file(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) fail_file(code_, path, "removed", errno);
  }

  void remove_folder_tree(const std::string& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);
    if (error) fail_file(code_, path, "removed", error.value());
  }

  void make_folders(const std::string& path) override {
    if (folder_exists(path)) return;
    const std::string parent = parent_of(path);
    if (parent != path) make_folders(parent);
    // Another process may make it at the same moment; a file of that name is an error.
    if (::mkdir(path.c_str(), 0777) != 0 && !(errno == EEXIST && folder_exists(path))) {
      fail_file(code_, path, "made as a folder", errno);
    }
    sync_folder(parent);
  }

  void sync_folder(const std::string& path) override {
    const Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder.valid()) fail_file(code_, path, "opened as a folder", errno);
    // Some network file systems know no fsync of folders: their renames are durable by themselves.
    if (::fsync(folder.get()) != 0 && errno != EINVAL) {
      fail_file(code_, path, "synced", errno);
    }
  }

  void truncate(const std::string& path, uint64_t bytes) override {
    if (::truncate(path.c_str(), static_cast<off_t>(bytes)) != 0) {
      fail_file(code_, path, "truncated", errno);
    }
  }

 private:
  ExitCode code_;  // of its failures
};

}  // namespace

void fail_file(ExitCode code, const std::string& path, const char* action, int error) {
  throw FileError(
      code,
      fmt::format("'{}' cannot be {}: {}.", path, action, std::generic_category().message(error)),
      error);
}

bool FileError::disk_full() const { return system_error_ == ENOSPC || system_error_ == EDQUOT; }

FileSystem& FileSystem::posix() {
  static PosixFileSystem files(ExitCode::kCheckpoint);
  return files;
}

FileSystem& FileSystem::posix_of_data() {
  static PosixFileSystem files(ExitCode::kData);
  return files;
}

bool file_exists(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && !S_ISDIR(status.st_mode);
}

bool folder_exists(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

uint64_t file_size(const std::string& path, ExitCode code) {
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) fail_file(code, path, "read", errno);
  return static_cast<uint64_t>(status.st_size);
}

uint64_t free_bytes(const std::string& folder) {
  struct statvfs status;
  if (::statvfs(folder.c_str(), &status) != 0) {
    fail_file(ExitCode::kCheckpoint, folder, "asked for its free space", errno);
  }
  return static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
}

std::vector<std::string> list_folder(const std::string& path, ExitCode code) {
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(path, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  if (error) fail_file(code, path, "listed", error.value());
  std::sort(names.begin(), names.end());
  return names;
}

std::string read_file(const std::string& path, ExitCode code, uint64_t limit) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) fail_file(code, path, "opened", errno);
  std::string contents;
  size_t filled = 0;
  struct stat status;
  if (::fstat(file.get(), &status) != 0) fail_file(code, path, "read", errno);
  // A pipe or a file of /proc has no size: read to the end, whatever the size says.
  contents.resize(std::min<uint64_t>(static_cast<uint64_t>(status.st_size), limit) + 1);
  while (true) {
    const ssize_t got = ::read(file.get(), contents.data() + filled, contents.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_file(code, path, "read", errno);
    if (got == 0) break;
    filled += static_cast<size_t>(got);
    if (filled > limit) {
      fail(code, "'{}' is larger than the {} bytes allowed for such a file.", path, limit);
    }
    if (filled == contents.size()) contents.resize(2 * filled);
  }
  contents.resize(filled);
  return contents;
}

void write_file_atomically(FileSystem& files, const std::string& path, std::string_view contents) {
  const std::string temporary = path + ".tmp";
  {
    auto file = files.create(temporary);
    file->append(contents);
    file->sync();
    file->close();
  }
  files.rename(temporary, path);
  files.sync_folder(parent_of(path));
}

MappedFile::MappedFile(const std::string& path, ExitCode code) : path_(path) {
  // A pipe would wait for its writer.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) fail_file(code, path, "opened", errno);
  struct stat status;
  if (::fstat(file.get(), &status) != 0) fail_file(code, path, "read", errno);
  if (S_ISDIR(status.st_mode)) fail_file(code, path, "read", EISDIR);
  if (!S_ISREG(status.st_mode)) {
    fail(code, "'{}' is no regular file: a pipe or device cannot be mapped.", path);
  }
  if (status.st_size == 0) return;
  const auto size = static_cast<uint64_t>(status.st_size);
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) fail_file(code, path, "mapped", errno);
  data_ = static_cast<const std::byte*>(mapped);
  size_ = size;
}

MappedFile::~MappedFile() { unmap(); }

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      path_(std::move(other.path_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    path_ = std::move(other.path_);
  }
  return *this;
}

void MappedFile::unmap() noexcept {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  data_ = nullptr;
  size_ = 0;
}

}  // namespace swiattn
