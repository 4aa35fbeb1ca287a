#include "checkpoint/manifest.h"

#include <algorithm>
#include <limits>
#include <set>

#include "base/file_system.h"
#include "base/hash.h"
#include "base/json.h"

namespace swiattn {
namespace {

constexpr const char* kFormat = "swiattn-checkpoint";
constexpr int64_t kVersion = 1;
constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
constexpr uint64_t kLargestManifest = 16ULL << 20;  // bytes: some 100,000 files

// The end of the file, which a reader can recompute from all that stands before it.
std::string closing(std::string_view body) {
  return fmt::format("  \"manifest_hash\": \"{}\"\n}}\n", format_hash(hash_text(body)));
}

uint64_t read_hash(const JsonCursor& value) {
  const std::string text = value.string();
  const bool has_form = text.size() == 21 && text.starts_with("xxh3:") &&
                        text.find_first_not_of("0123456789abcdef", 5) == std::string::npos;
  if (!has_form) value.refuse("\"xxh3:\" and 16 hexadecimal digits");
  return std::stoull(text.substr(5), nullptr, 16);
}

ManifestFile read_entry(const JsonCursor& entry, std::set<std::string>& names) {
  ManifestFile file;
  file.name = entry["name"].string();
  if (!is_payload_name(file.name)) entry["name"].refuse("a plain file name");
  if (!names.insert(file.name).second) entry["name"].refuse("a name not listed before");
  file.bytes = static_cast<uint64_t>(entry["bytes"].integer(0, kLargest));
  file.hash = read_hash(entry["hash"]);
  return file;
}

}  // namespace

uint64_t Manifest::total_bytes() const {
  uint64_t total = 0;
  for (const ManifestFile& file : files) total += file.bytes;
  return total;
}

const ManifestFile* Manifest::find(std::string_view name) const {
  const auto at = std::find_if(files.begin(), files.end(),
                               [&](const ManifestFile& file) { return file.name == name; });
  return at == files.end() ? nullptr : &*at;
}

bool is_payload_name(std::string_view name) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return !name.empty() && name.size() <= 255 && name.front() != '.' && name != kManifestName &&
         name.find_first_not_of(kAllowed) == std::string_view::npos;
}

std::string format_manifest(const Manifest& manifest) {
  const ManifestFields& fields = manifest.fields;
  std::string body = fmt::format(
      "{{\n  \"format\": \"{}\",\n  \"version\": {},\n  \"step\": {},\n  \"tokens\": {},\n"
      "  \"world\": {},\n  \"config_hash\": \"{}\",\n  \"files\": [",
      kFormat, kVersion, fields.step, fields.tokens, fields.world, format_hash(fields.config_hash));
  for (const ManifestFile& file : manifest.files) {
    const bool first = &file == &manifest.files.front();
    body += fmt::format("{}\n    {{\"name\": \"{}\", \"bytes\": {}, \"hash\": \"{}\"}}",
                        first ? "" : ",", file.name, file.bytes, format_hash(file.hash));
  }
  body += "\n  ],\n";
  return body + closing(body);
}

Manifest parse_manifest(std::string_view text, const std::string& source) {
  // The hash is compared as text, so that not even a changed space goes unnoticed.
  const size_t closing_size = closing("").size();
  const size_t body_size = text.size() - std::min(text.size(), closing_size);
  if (text.substr(body_size) != closing(text.substr(0, body_size))) {
    fail(ExitCode::kCheckpoint,
         "{}: the file's own hash does not match its contents: it is damaged or incomplete.",
         source);
  }
  const Json json = parse_json(text, source, ExitCode::kCheckpoint);
  const JsonCursor root(json, source, ExitCode::kCheckpoint);
  if (root["format"].string() != kFormat) {
    root["format"].refuse(fmt::format("\"{}\"", kFormat));
  }
  if (const int64_t version = root["version"].integer(1, kLargest); version > kVersion) {
    throw NewerFormatError(
        ExitCode::kCheckpoint,
        fmt::format("{}: format version {} is newer than {}, the newest that this program reads. "
                    "Use the version of swiattn that wrote it, or a newer one.",
                    source, version, kVersion));
  }
  Manifest manifest;
  manifest.fields.step = root["step"].integer(0, kLargest);
  manifest.fields.tokens = root["tokens"].integer(0, kLargest);
  manifest.fields.world = root["world"].integer(1, kLargest);
  manifest.fields.config_hash = read_hash(root["config_hash"]);
  std::set<std::string> names;
  const JsonCursor files = root["files"];
  for (size_t i = 0; i < files.size(); ++i) {
    manifest.files.push_back(read_entry(files.at(i), names));
  }
  return manifest;
}

Manifest read_manifest(const std::string& folder) {
  const std::string path = folder + "/" + kManifestName;
  return parse_manifest(read_file(path, ExitCode::kCheckpoint, kLargestManifest), path);
}

}  // namespace swiattn
