// status.json, the heartbeat of a run: {schema, step, phase, time, last_error}.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/file_system.h"

namespace swiattn {

// Readers see the old file or the new one, never a mixture. It is not synced: a heartbeat is worth
// nothing after a power cut, and a sync a step would cost more than many a step. Trouble with the
// disk is ignored. Used by one thread.
class StatusFile {
 public:
  StatusFile(FileSystem& files, std::string path);

  // A step with the phase unchanged is written at most once a second.
  void update(int64_t step, std::string_view phase);

  // Remembered and written at once; stays until the next one.
  void report_error(std::string_view sentence);

 private:
  void write();

  FileSystem& files_;
  std::string path_;
  int64_t step_ = 0;
  std::string phase_;
  std::optional<std::string> last_error_;
  std::optional<std::chrono::steady_clock::time_point> written_;
};

}  // namespace swiattn
