#include "checkpoint/saved_checkpoint.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <exception>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file_system.h"
#include "base/hash.h"
#include "checkpoint/checkpoint_names.h"

namespace swiattn {
namespace {

constexpr size_t kBlock = 4 << 20;  // bytes read at a time
constexpr size_t kMostThreads = 8;  // more rarely help: disks are slower than XXH3

void check_step_matches_name(const std::string& folder, const Manifest& manifest) {
  const std::string name = std::filesystem::path(folder).filename();
  const std::optional<int64_t> step = step_of_folder_name(name);
  if (step && *step != manifest.fields.step) {
    fail(
        ExitCode::kCheckpoint,
        "{}: the manifest inside is that of step {}. The folder was renamed or its manifest copied "
        "from another checkpoint.",
        folder, manifest.fields.step);
  }
}

void check_size(const std::string& folder, const ManifestFile& file) {
  const std::string path = folder + "/" + file.name;
  if (!file_exists(path)) {
    fail(ExitCode::kCheckpoint, "{}: the file is missing; the manifest lists it with {} bytes.",
         path, file.bytes);
  }
  if (const uint64_t found = file_size(path, ExitCode::kCheckpoint); found != file.bytes) {
    fail(ExitCode::kCheckpoint, "{}: the file has {} bytes; the manifest lists {}.", path, found,
         file.bytes);
  }
}

// Reads, and does not map: a bad sector is then an error and not a fatal signal.
void check_hash(const std::string& folder, const ManifestFile& file) {
  const std::string path = folder + "/" + file.name;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) fail_file(ExitCode::kCheckpoint, path, "opened", errno);
  std::vector<char> block(std::min<uint64_t>(kBlock, std::max<uint64_t>(file.bytes, 1)));
  Hasher hasher;
  uint64_t total = 0;
  while (stream.read(block.data(), static_cast<std::streamsize>(block.size())),
         stream.gcount() > 0) {
    hasher.update(block.data(), static_cast<size_t>(stream.gcount()));
    total += static_cast<uint64_t>(stream.gcount());
  }
  if (total != file.bytes) {
    fail(ExitCode::kCheckpoint, "{}: only {} of {} bytes could be read.", path, total, file.bytes);
  }
  if (hasher.digest() != file.hash) {
    fail(ExitCode::kCheckpoint, "{}: its hash is {}; the manifest lists {}. The file is damaged.",
         path, format_hash(hasher.digest()), format_hash(file.hash));
  }
}

// Hashes files side by side. Of several errors, that of the first file in the manifest is thrown.
void check_hashes(const std::string& folder, const std::vector<ManifestFile>& files) {
  std::vector<std::exception_ptr> errors(files.size());
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++) {
      try {
        check_hash(folder, files[i]);
      } catch (...) {
        errors[i] = std::current_exception();
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    const size_t count =
        std::min({files.size(), kMostThreads, size_t{std::thread::hardware_concurrency()}});
    for (size_t i = 1; i < count; ++i) threads.emplace_back(work);
    work();
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace

SavedCheckpoint::SavedCheckpoint(std::string folder, CheckpointTest test)
    : folder_(without_trailing_slashes(std::move(folder))), manifest_(read_manifest(folder_)) {
  check_step_matches_name(folder_, manifest_);
  for (const ManifestFile& file : manifest_.files) check_size(folder_, file);
  if (test == CheckpointTest::kHashes) check_hashes(folder_, manifest_.files);
}

bool is_damage(const Error& error) {
  if (dynamic_cast<const NewerFormatError*>(&error) != nullptr) return false;
  const auto* const file = dynamic_cast<const FileError*>(&error);
  if (file == nullptr) return true;
  const int why = file->system_error();
  return why == ENOENT || why == ENOTDIR || why == EIO;
}

std::string SavedCheckpoint::path(std::string_view name) const {
  if (manifest_.find(name) == nullptr) {
    fail(ExitCode::kCheckpoint, "{}: the checkpoint has no file '{}'.", folder_, name);
  }
  return folder_ + "/" + std::string(name);
}

}  // namespace swiattn
