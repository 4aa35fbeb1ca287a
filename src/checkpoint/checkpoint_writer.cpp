#include "checkpoint/checkpoint_writer.h"

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/path_aside.h"
#include "checkpoint/checkpoint_names.h"
#include "checkpoint/saved_checkpoint.h"

namespace swiattn {
namespace {

void write_durably(FileSystem& files, const std::string& path, std::string_view contents) {
  const auto file = files.create(path);
  file->append(contents);
  file->sync();
  file->close();
}

}  // namespace

CheckpointWriter::CheckpointWriter(FileSystem& files, Log& log, std::string parent, int64_t step)
    : files_(files),
      log_(log),
      parent_(std::move(parent)),
      step_(step),
      folder_(parent_ + "/" + temporary_name(step)) {
  files_.make_folders(folder_);
}

CheckpointWriter::~CheckpointWriter() {
  if (!finished_) discard();
}

std::string CheckpointWriter::path(std::string_view name) const {
  SWIATTN_CHECK(is_payload_name(name), "'{}' is no name for a file of a checkpoint", name);
  return folder_ + "/" + std::string(name);
}

void CheckpointWriter::add(std::string_view name, uint64_t bytes, uint64_t hash) {
  SWIATTN_CHECK(is_payload_name(name), "'{}' is no name for a file of a checkpoint", name);
  SWIATTN_CHECK(manifest_.find(name) == nullptr, "'{}' was added to the checkpoint twice", name);
  manifest_.files.push_back({std::string(name), bytes, hash});
}

void CheckpointWriter::add_text(std::string_view name, std::string_view contents) {
  write_durably(files_, path(name), contents);
  add(name, contents.size(), hash_text(contents));
}

std::string CheckpointWriter::commit(const ManifestFields& fields) {
  SWIATTN_CHECK(!finished_, "a checkpoint was committed twice");
  SWIATTN_CHECK(fields.step == step_, "begun for step {}, committed for {}", step_, fields.step);
  manifest_.fields = fields;
  write_durably(files_, path_of_manifest(folder_), format_manifest(manifest_));
  files_.sync_folder(folder_);

  // A last look at the sizes notices a file that was added but not written as it was described.
  const SavedCheckpoint written(folder_, CheckpointTest::kSizes);

  const std::string name = checkpoint_folder_name(step_);
  std::string target = parent_ + "/" + name;
  if (!make_way(target)) {
    discard();
    return target;
  }
  files_.rename(folder_, target);
  finished_ = true;
  files_.sync_folder(parent_);
  point_latest_at(files_, log_, parent_, name);
  return target;
}

// Whether the name is free now. A folder that holds this step whole is never moved for the same
// bytes: between two renames a crash would leave no checkpoint of that name.
bool CheckpointWriter::make_way(const std::string& target) {
  if (!folder_exists(target)) return true;
  try {
    const SavedCheckpoint existing(target, CheckpointTest::kHashes);
    if (existing.manifest().files == manifest_.files) {
      log_.info("{} is already there and whole: it is kept.", target);
      return false;
    }
    set_aside(files_, log_, parent_, checkpoint_folder_name(step_), "superseded",
              fmt::format("{} holds another state of step {}.", target, step_));
    return true;
  } catch (const Error& error) {
    if (!is_damage(error)) throw;
    set_aside(files_, log_, parent_, checkpoint_folder_name(step_), "corrupt", error.what());
    return true;
  }
}

void CheckpointWriter::discard() {
  finished_ = true;
  try {
    files_.remove_folder_tree(folder_);
  } catch (const FileError& error) {
    log_.warning("{} An unfinished checkpoint stays on disk until the next save.", error.what());
  }
}

}  // namespace swiattn
