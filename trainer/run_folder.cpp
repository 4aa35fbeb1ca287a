#include "trainer/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "trainer/host.h"

namespace swiattn {
namespace {

constexpr auto kPause = std::chrono::milliseconds(50);  // between attempts to take the lock

[[noreturn]] void refuse_folder(const std::string& path, const std::string& reason) {
  fail(ExitCode::kConfiguration,
       "run.folder: '{}' cannot be used: {} Choose a folder that this user can write.", path,
       reason);
}

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

std::string holder_of(const std::string& lock_file) {
  std::string text = read_file(lock_file, ExitCode::kConfiguration);
  while (text.ends_with('\n')) text.pop_back();
  return text.empty() ? "another process" : text;
}

[[noreturn]] void refuse_lock(const std::string& path, const std::string& lock_file, int error) {
  if (error != EWOULDBLOCK) {
    refuse_folder(path, fmt::format("'{}' cannot be locked ({}).", lock_file,
                                    std::generic_category().message(error)));
  }
  fail(ExitCode::kConfiguration,
       "run.folder: '{}' is in use by {}. Two runs cannot share a folder: wait until that one "
       "ends, or choose another folder.",
       path, holder_of(lock_file));
}

// A courtesy: without the text the lock works as well.
void write_holder(int lock) {
  const std::string text = fmt::format("process {} on {}\n", getpid(), host_name());
  [[maybe_unused]] const bool written =
      ftruncate(lock, 0) == 0 && pwrite(lock, text.data(), text.size(), 0) > 0;
}

}  // namespace

RunFolder::RunFolder(FileSystem& files, std::string path, std::chrono::milliseconds patience)
    : files_(files), path_(std::move(path)) {
  while (path_.size() > 1 && path_.ends_with('/')) path_.pop_back();
  try {
    files_.make_folders(path_);
  } catch (const FileError& error) {
    refuse_folder(path_, error.what());
  }
  const std::string lock_file = path_ + "/.lock";
  lock_ = open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) {
    refuse_folder(path_, fmt::format("'{}' cannot be opened ({}).", lock_file,
                                     std::generic_category().message(errno)));
  }
  if (const int error = take_lock(lock_, patience); error != 0) {
    close(lock_);
    refuse_lock(path_, lock_file, error);
  }
  write_holder(lock_);
}

RunFolder::~RunFolder() { close(lock_); }

bool RunFolder::holds_a_run() const {
  if (file_exists(metrics()) && file_size(metrics(), ExitCode::kConfiguration) > 0) return true;
  if (!folder_exists(checkpoints())) return false;
  for (const std::string& name : list_folder(checkpoints(), ExitCode::kConfiguration)) {
    if (name.starts_with("step-")) return true;
  }
  return false;
}

void RunFolder::describe(std::string_view config, std::string_view resolved_config,
                         const nlohmann::ordered_json& environment) {
  write_file_atomically(files_, path_ + "/config.yaml", config);
  write_file_atomically(files_, path_ + "/config.resolved.yaml", resolved_config);
  write_file_atomically(files_, path_ + "/environment.json",
                        environment.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace swiattn
