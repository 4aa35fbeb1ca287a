// MANIFEST.json, the last file written into a checkpoint: what the checkpoint is and which bytes
// belong to it. docs/checkpoint-format.md describes the file for readers without this code.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace swiattn {

inline constexpr const char* kManifestName = "MANIFEST.json";

// One payload file of a checkpoint.
struct ManifestFile {
  std::string name;    // a plain base name
  uint64_t bytes = 0;  // its exact size
  uint64_t hash = 0;   // XXH3-64 of all its bytes

  bool operator==(const ManifestFile&) const = default;
};

// What the trainer says about a checkpoint.
struct ManifestFields {
  int64_t step = 0;          // optimizer steps taken, skipped ones included
  int64_t tokens = 0;        // input tokens seen
  int64_t world = 1;         // ranks of the run that saved it
  uint64_t config_hash = 0;  // of the resolved configuration

  bool operator==(const ManifestFields&) const = default;
};

struct Manifest {
  ManifestFields fields;
  std::vector<ManifestFile> files;

  uint64_t total_bytes() const;
  const ManifestFile* find(std::string_view name) const;  // null when not listed
  bool operator==(const Manifest&) const = default;
};

// A manifest of a later format version: nothing is wrong with it, but this program cannot read it.
class NewerFormatError : public Error {
 public:
  using Error::Error;
};

// Whether `name` may stand in a manifest: a base name of letters, digits, '.', '_' and '-' that
// does not begin with a dot and is not the manifest's own.
bool is_payload_name(std::string_view name);

// The text of the file. Its last line but one holds the hash of everything before that line.
std::string format_manifest(const Manifest& manifest);

// The reverse. Throws Error{kCheckpoint} beginning with `source` when any byte differs from what
// format_manifest wrote or when a value is impossible, NewerFormatError as said above.
Manifest parse_manifest(std::string_view text, const std::string& source);

// Reads FOLDER/MANIFEST.json.
Manifest read_manifest(const std::string& folder);

}  // namespace swiattn
