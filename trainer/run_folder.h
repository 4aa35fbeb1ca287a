// The folder of a run: who may use it and where everything in it lies.
//
//   config.yaml  config.resolved.yaml  environment.json  run.log  metrics.jsonl  status.json
//   tensorboard/  routing/  profile/  checkpoints/  hybrid/  report.html
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "base/file_system.h"
#include "base/folder_lock.h"
#include "base/json.h"

namespace swiattn {

// Holds the lock of the folder from construction to destruction. Rank 0 alone makes one.
class RunFolder {
 public:
  // Makes the folder where it is missing and waits for the lock of a run that is just ending.
  // Throws Error{kConfiguration} naming the holder when another run keeps it, when the path is no
  // folder that can be written, and when something in it keeps a run from writing there.
  RunFolder(FileSystem& files, std::string path,
            std::chrono::milliseconds patience = std::chrono::seconds(5));

  // Writes config.yaml as the user wrote it, config.resolved.yaml and environment.json, those of
  // the latest start. Throws FileError.
  void describe(std::string_view config, std::string_view resolved_config,
                const nlohmann::ordered_json& environment);

  const std::string& path() const { return path_; }
  std::string log() const { return path_ + "/run.log"; }
  std::string metrics() const { return path_ + "/metrics.jsonl"; }
  std::string status() const { return path_ + "/status.json"; }
  std::string tensorboard() const { return path_ + "/tensorboard"; }
  std::string routing() const { return path_ + "/routing"; }
  std::string profile() const { return path_ + "/profile"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  std::string hybrid() const { return path_ + "/hybrid"; }
  std::string report() const { return path_ + "/report.html"; }

 private:
  FileSystem& files_;
  std::string path_;
  std::optional<FolderLock> lock_;  // from the end of the constructor on
};

// Whether a run has left steps or checkpoints in a folder. What a kill has left of a first save is
// none.
bool holds_a_run(const std::string& path);

// Throws the Error{kConfiguration} that a RunFolder of a path would throw that cannot be made or
// written. Makes and removes nothing on the path itself, where a run may be starting: what is
// missing of it is made below a temporary folder in the last part that is there.
void try_run_folder(FileSystem& files, const std::string& path);

}  // namespace swiattn
