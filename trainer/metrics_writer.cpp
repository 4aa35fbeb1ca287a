#include "trainer/metrics_writer.h"

#include <fstream>
#include <ostream>

#include "base/json.h"

namespace swiattn {
namespace {

// Whether a line was written before `resumed_step` was saved. What is no such object was torn by a
// crash.
bool belongs(const std::string& line, int64_t resumed_step) {
  const Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) return false;
  const auto step = object.find("step");
  return step != object.end() && step->is_number_integer() && step->get<int64_t>() <= resumed_step;
}

// Lines stand in the order of their steps, so that those to keep are a prefix: its size in bytes.
uint64_t size_to_keep(const std::string& path, int64_t resumed_step) {
  std::ifstream stream(path, std::ios::binary);
  uint64_t size = 0;
  for (std::string line; std::getline(stream, line) && !stream.eof();) {
    if (!belongs(line, resumed_step)) break;
    size += line.size() + 1;
  }
  return size;
}

}  // namespace

MetricsWriter::MetricsWriter(FileSystem& files, std::string path, int64_t resumed_step, Log& log,
                             std::ostream* echo)
    : files_(files),
      path_(std::move(path)),
      log_(log),
      echo_(echo),
      size_(size_to_keep(path_, resumed_step)) {
  if (file_exists(path_) && file_size(path_, ExitCode::kCheckpoint) != size_) {
    files_.truncate(path_, size_);
  }
  file_ = files_.open_for_append(path_);
}

void MetricsWriter::record(const std::string& line) {
  append(line);
  if (echo_ != nullptr) *echo_ << line << std::flush;
}

void MetricsWriter::append(const std::string& line) {
  waiting_ += line;
  try {
    // A write that stopped halfway left a torn line behind the whole ones.
    if (in_trouble_) files_.truncate(path_, size_);
    file_->append(waiting_);
    size_ += waiting_.size();
    waiting_.clear();
    in_trouble_ = false;
  } catch (const FileError& error) {
    report(error);
  }
}

void MetricsWriter::sync() {
  if (!waiting_.empty()) append("");
  try {
    file_->sync();
  } catch (const FileError& error) {
    report(error);
  }
}

void MetricsWriter::report(const FileError& error) {
  if (!in_trouble_) log_.warning("{} Metrics wait in memory until it works again.", error.what());
  in_trouble_ = true;
}

}  // namespace swiattn
