#include "trainer/status_file.h"

#include "base/host.h"
#include "base/json.h"

namespace swiattn {

StatusFile::StatusFile(FileSystem& files, std::string path)
    : files_(files), path_(std::move(path)) {}

void StatusFile::update(int64_t step, std::string_view phase) {
  const auto now = std::chrono::steady_clock::now();
  const bool recent = written_ && now - *written_ < std::chrono::seconds(1);
  step_ = step;
  if (recent && phase == phase_) return;
  phase_ = phase;
  write();
}

void StatusFile::report_error(std::string_view sentence) {
  last_error_ = sentence;
  write();
}

void StatusFile::write() {
  written_ = std::chrono::steady_clock::now();
  const nlohmann::ordered_json status = {
      {"schema", 1},
      {"step", step_},
      {"phase", phase_},
      {"time", utc_now()},
      {"last_error", last_error_ ? nlohmann::ordered_json(*last_error_) : nullptr}};
  try {
    const std::string temporary = path_ + ".tmp";
    const auto file = files_.create(temporary);
    file->append(dump_json(status, 2) + "\n");
    file->close();
    files_.rename(temporary, path_);
  } catch (const FileError&) {
    // The next beat tries again.
  }
}

}  // namespace swiattn
