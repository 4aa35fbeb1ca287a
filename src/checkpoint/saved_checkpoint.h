// A checkpoint of a run that lies complete on disk, as a reader sees it.
#pragma once

#include <string>
#include <string_view>

#include "checkpoint/manifest.h"

namespace swiattn {

// How much of a checkpoint is examined before it is trusted.
enum class CheckpointTest {
  kSizes,   // the manifest, and every listed file's presence and size: milliseconds
  kHashes,  // also every byte: as long as reading the checkpoint takes
};

// A checkpoint that has passed a test.
class SavedCheckpoint {
 public:
  // Throws Error{kCheckpoint} naming the file, what was found and what was expected. Files beside
  // the listed ones are tolerated: nothing reads them. Hashing uses a few threads.
  SavedCheckpoint(std::string folder, CheckpointTest test);

  const std::string& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }
  int64_t step() const { return manifest_.fields.step; }

  // The path of a listed file; throws Error{kCheckpoint} when the manifest does not list it, so
  // that nothing unverified is ever loaded.
  std::string path(std::string_view name) const;

 private:
  std::string folder_;
  Manifest manifest_;
};

// Whether what SavedCheckpoint threw says that the checkpoint is not whole. One of a newer format
// may be, and so may one that this process has no right to read.
bool is_damage(const Error& error);

}  // namespace swiattn
