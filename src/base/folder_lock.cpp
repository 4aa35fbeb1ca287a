#include "base/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <thread>

#include "base/file_system.h"
#include "base/host.h"

namespace swiattn {
namespace {

constexpr auto kPause = std::chrono::milliseconds(50);  // between attempts to take the lock

// Takes the lock; 0 then, else the reason as errno: EWOULDBLOCK when somebody kept it for
// `patience`.
int take_lock(int lock, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (flock(lock, LOCK_EX | LOCK_NB) != 0) {
    const bool may_pass = errno == EWOULDBLOCK || errno == EINTR;
    if (!may_pass || std::chrono::steady_clock::now() >= deadline) return errno;
    std::this_thread::sleep_for(kPause);
  }
  return 0;
}

[[noreturn]] void refuse_file(const std::string& file, const char* action, int error) {
  throw FileError(
      ExitCode::kCheckpoint,
      fmt::format("'{}' cannot be {} ({}).", file, action, std::generic_category().message(error)),
      error);
}

std::string lock_file(const std::string& folder) { return folder + "/.lock"; }

std::string holder_of(const std::string& file) {
  std::string text = read_file(file, ExitCode::kConfiguration);
  while (text.ends_with('\n')) text.pop_back();
  return text.empty() ? "another process" : text;
}

// A courtesy: without the text the lock works as well.
void write_holder(int lock) {
  const std::string text = fmt::format("process {} on {}\n", getpid(), host_name());
  [[maybe_unused]] const bool written =
      ftruncate(lock, 0) == 0 && pwrite(lock, text.data(), text.size(), 0) > 0;
}

}  // namespace

FolderLock::FolderLock(const std::string& folder, std::chrono::milliseconds patience) {
  const std::string file = lock_file(folder);
  lock_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) refuse_file(file, "opened", errno);
  if (const int error = take_lock(lock_, patience); error != 0) {
    close(lock_);
    if (error != EWOULDBLOCK) refuse_file(file, "locked", error);
    fail(ExitCode::kConfiguration,
         "run.folder: '{}' is in use by {}. Two programs cannot write to one run: wait until that "
         "one ends, or choose another folder.",
         folder, holder_of(file));
  }
  write_holder(lock_);
}

FolderLock::~FolderLock() { close(lock_); }

std::optional<std::string> FolderLock::holder(const std::string& folder) {
  const std::string file = lock_file(folder);
  const int lock = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (lock < 0) return std::nullopt;
  // Shared with others who only look; let go of by closing.
  const bool held = flock(lock, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  close(lock);
  return held ? std::optional(holder_of(file)) : std::nullopt;
}

}  // namespace swiattn
