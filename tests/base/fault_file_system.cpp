#include "tests/base/fault_file_system.h"

#include <filesystem>
#include <system_error>

#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

FileSystem& real() { return FileSystem::posix(); }

std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

std::string normal(const std::string& path) {
  std::string text = std::filesystem::path(path).lexically_normal().string();
  if (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

bool is_inside(const std::string& path, const std::string& folder) {
  return path == folder || path.starts_with(folder + "/");
}

// `path` after `from`, which it may lie in, was renamed to `to`.
std::string after_rename(const std::string& path, const std::string& from, const std::string& to) {
  return is_inside(path, from) ? to + path.substr(from.size()) : path;
}

}  // namespace

class FaultFileSystem::File : public WritableFile {
 public:
  File(FaultFileSystem& files, const std::string& path, std::unique_ptr<WritableFile> file)
      : files_(files), path_(path), file_(std::move(file)) {}

  void append(const void* bytes, size_t count) override {
    const std::lock_guard lock(files_.mutex_);
    const bool cut_short = files_.count_append(path_);
    files_.remember_contents(path_);
    file_->append(bytes, cut_short ? count / 2 : count);
    if (cut_short) files_.fail_now(path_);
  }

  void sync() override {
    const std::lock_guard lock(files_.mutex_);
    files_.count_call(path_);
    files_.synced_.erase(path_);
  }

  void close() override {
    const std::lock_guard lock(files_.mutex_);
    files_.count_call(path_);
    file_->close();
  }

 private:
  FaultFileSystem& files_;
  std::string path_;
  std::unique_ptr<WritableFile> file_;
};

void FaultFileSystem::inject(int call, Fault fault, int error) {
  const std::lock_guard lock(mutex_);
  calls_ = 0;
  fault_call_ = call;
  fault_ = fault;
  error_ = error;
}

int FaultFileSystem::calls() const {
  const std::lock_guard lock(mutex_);
  return calls_;
}

bool FaultFileSystem::triggered() const {
  const std::lock_guard lock(mutex_);
  return fault_call_ > 0 && calls_ >= fault_call_;
}

void FaultFileSystem::count_call(const std::string& path) {
  if (count_append(path)) fail_now(path);
}

bool FaultFileSystem::count_append(const std::string& path) {
  ++calls_;
  if (fault_call_ == 0 || calls_ < fault_call_) return false;
  const bool lasting = fault_ == Fault::kLasting || fault_ == Fault::kPowerCut;
  if (!lasting && calls_ > fault_call_) return false;
  if (fault_ == Fault::kShortWrite) return true;
  fail_now(path);
}

void FaultFileSystem::fail_now(const std::string& path) {
  throw FileError(
      ExitCode::kCheckpoint,
      fmt::format("'{}': injected fault: {}.", path, std::generic_category().message(error_)),
      error_);
}

// The contents of a file before its first change since its last sync.
void FaultFileSystem::remember_contents(const std::string& path) {
  if (synced_.contains(path)) return;
  synced_[path] = file_exists(path) ? read_file(path, ExitCode::kInternal) : "";
}

void FaultFileSystem::move_synced(const std::string& from, const std::string& to) {
  std::map<std::string, std::string> moved;
  for (auto& [path, contents] : synced_) moved[after_rename(path, from, to)] = std::move(contents);
  synced_ = std::move(moved);
}

void FaultFileSystem::collect(const std::string& path, Change& change) const {
  if (folder_exists(path)) {
    change.lost_folders.push_back(path);
    for (const std::string& name : list_folder(path, ExitCode::kInternal)) {
      collect(path + "/" + name, change);
    }
  } else if (file_exists(path)) {
    const auto synced = synced_.find(path);
    change.lost[path] =
        synced != synced_.end() ? synced->second : read_file(path, ExitCode::kInternal);
  }
}

void FaultFileSystem::undo(const Change& change) {
  if (change.kind == Change::Kind::kCreated) real().remove_folder_tree(change.path);
  if (change.kind == Change::Kind::kRenamed) {
    real().rename(change.path, change.from);
    move_synced(change.path, change.from);
  }
  for (const std::string& folder : change.lost_folders) real().make_folders(folder);
  for (const auto& [path, contents] : change.lost) write_file(path, contents);
}

void FaultFileSystem::lose_unsynced(Names names) {
  inject(1, Fault::kPowerCut, error_);
  const std::lock_guard lock(mutex_);
  if (names == Names::kLost) {
    for (; !changes_.empty(); changes_.pop_back()) undo(changes_.back());
  }
  for (const auto& [path, contents] : synced_) {
    if (file_exists(path)) write_file(path, contents);
  }
}

std::unique_ptr<WritableFile> FaultFileSystem::create(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const std::string path = normal(name);
  count_call(path);
  const bool existed = file_exists(path);
  remember_contents(path);
  auto file = real().create(path);
  if (!existed) changes_.push_back({Change::Kind::kCreated, path, "", {}, {}});
  return std::make_unique<File>(*this, path, std::move(file));
}

std::unique_ptr<WritableFile> FaultFileSystem::open_for_append(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const std::string path = normal(name);
  count_call(path);
  const bool existed = file_exists(path);
  remember_contents(path);
  auto file = real().open_for_append(path);
  if (!existed) changes_.push_back({Change::Kind::kCreated, path, "", {}, {}});
  return std::make_unique<File>(*this, path, std::move(file));
}

void FaultFileSystem::rename(const std::string& old_name, const std::string& new_name) {
  const std::lock_guard lock(mutex_);
  const std::string from = normal(old_name), to = normal(new_name);
  count_call(from);
  Change change{Change::Kind::kRenamed, to, from, {}, {}};
  collect(to, change);
  real().rename(from, to);
  synced_.erase(to);
  move_synced(from, to);
  changes_.push_back(std::move(change));
}

void FaultFileSystem::remove_file(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const std::string path = normal(name);
  count_call(path);
  Change change{Change::Kind::kRemoved, path, "", {}, {}};
  collect(path, change);
  real().remove_file(path);
  synced_.erase(path);
  changes_.push_back(std::move(change));
}

void FaultFileSystem::remove_folder_tree(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const std::string path = normal(name);
  count_call(path);
  Change change{Change::Kind::kRemoved, path, "", {}, {}};
  collect(path, change);
  real().remove_folder_tree(path);
  std::erase_if(synced_, [&](const auto& entry) { return is_inside(entry.first, path); });
  changes_.push_back(std::move(change));
}

void FaultFileSystem::make_folders(const std::string& path) {
  const std::lock_guard lock(mutex_);
  count_call(path);
  real().make_folders(path);  // syncs the parents by contract: nothing to lose
}

void FaultFileSystem::sync_folder(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const std::string folder = normal(name);
  count_call(folder);
  real().sync_folder(folder);
  // A change is recorded under the names of its time, so look through the renames since, latest
  // change first: a rename that becomes durable here takes the changes before it along.
  for (size_t i = changes_.size(); i-- > 0;) {
    std::string parent = parent_of(changes_[i].path);
    for (size_t j = i + 1; j < changes_.size(); ++j) {
      if (changes_[j].kind != Change::Kind::kRenamed) continue;
      parent = after_rename(parent, changes_[j].from, changes_[j].path);
    }
    if (parent != folder) continue;
    const Change durable = changes_[i];
    changes_.erase(changes_.begin() + static_cast<std::ptrdiff_t>(i));
    if (durable.kind != Change::Kind::kRenamed) continue;
    for (size_t j = 0; j < i; ++j) {
      changes_[j].path = after_rename(changes_[j].path, durable.from, durable.path);
    }
  }
}

void FaultFileSystem::truncate(const std::string& name, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const std::string path = normal(name);
  count_call(path);
  remember_contents(path);
  real().truncate(path, bytes);
}

}  // namespace swiattn
