// A checkpoint as a later version of this program would write it.
#pragma once

#include <string>

#include "base/file_system.h"
#include "base/hash.h"
#include "checkpoint/manifest.h"

namespace swiattn {

// Gives the manifest of a whole checkpoint the next format version, and the hash of its own that
// then belongs to it.
inline void give_newer_format(const std::string& checkpoint_folder) {
  const std::string path = checkpoint_folder + "/" + kManifestName;
  std::string text = read_file(path, ExitCode::kCheckpoint);
  text.replace(text.find("\"version\": 1"), 12, "\"version\": 2");
  text = text.substr(0, text.find("  \"manifest_hash\""));
  text += "  \"manifest_hash\": \"" + format_hash(hash_text(text)) + "\"\n}\n";
  write_file_atomically(FileSystem::posix(), path, text);
}

}  // namespace swiattn
