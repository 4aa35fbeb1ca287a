// metrics.jsonl: every step and validation of a run, one JSON object a line.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/log.h"
#include "trainer/metrics.h"

namespace swiattn {

// Each line reaches the operating system before record() returns, so that `tail -f` shows it and a
// kill loses none. Trouble with the disk never stops a run: lines that could not be written wait in
// memory and are tried again with the next one.
class MetricsWriter {
 public:
  // Opens `path` to go on after `resumed_step` (0: from the start): cuts the file back to the lines
  // of steps up to it, a half-written last line included. What is recorded goes to `echo`, too,
  // unless that is null. Throws FileError. Borrows the others.
  MetricsWriter(FileSystem& files, std::string path, int64_t resumed_step, Log& log,
                std::ostream* echo = nullptr);

  void record(const StepMetrics& metrics) { record(to_json_line(metrics)); }
  void record(const ValidationMetrics& metrics) { record(to_json_line(metrics)); }

  // Makes what was recorded survive a power cut; to be called before the checkpoint of a step is
  // committed, or a resume could find the checkpoint and not the lines that led to it.
  void sync();

 private:
  void record(const std::string& line);
  void append(const std::string& line);
  void report(const FileError& error);

  FileSystem& files_;
  std::string path_;
  Log& log_;
  std::ostream* echo_;
  uint64_t size_;  // bytes of the whole lines in the file
  std::unique_ptr<WritableFile> file_;
  std::string waiting_;  // lines not written yet
  bool in_trouble_ = false;
};

// The sets that a step was validated on, by the lines that a MetricsWriter keeps which goes on
// after it.
std::vector<std::string> validated_sets(const std::string& path, int64_t step);

}  // namespace swiattn
