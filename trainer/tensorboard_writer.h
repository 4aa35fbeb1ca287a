// TensorBoard event files, written without TensorFlow: a sequence of records
//
//   u64 length | u32 masked crc32c of the length | payload | u32 masked crc32c of the payload
//
// (little endian), each payload an `Event` protocol buffer. The first event names the format.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file_system.h"
#include "base/log.h"
#include "trainer/metrics.h"

namespace swiattn {

// CRC-32C (Castagnoli) of the bytes, as the record format rotates and offsets it.
uint32_t masked_crc32c(std::string_view bytes);

// Writes scalars into one new file of `folder`. Trouble with the disk ends the writing with a
// warning and never stops the run.
class TensorboardWriter {
 public:
  // A run that resumes after `resumed_step` tells TensorBoard to drop the events of later steps
  // that an earlier file may hold.
  TensorboardWriter(FileSystem& files, const std::string& folder, int64_t resumed_step, Log& log);

  void record(const StepMetrics& metrics);        // train/loss, layers/full_ratio/01, …
  void record(const ValidationMetrics& metrics);  // validation/NAME/nll, …

 private:
  using Scalars = std::vector<std::pair<std::string, double>>;
  void write_scalars(int64_t step, const Scalars& scalars);
  void write_record(std::string_view payload);

  Log& log_;
  std::unique_ptr<WritableFile> file_;  // null after a failure
};

}  // namespace swiattn
