#include "trainer/metrics_writer.h"

#include <fstream>
#include <ostream>

#include "base/json.h"

namespace swiattn {
namespace {

// Whether a line was written before `resumed_step` was saved. What is no such object was torn by a
// crash.
bool belongs(const Json& line, int64_t resumed_step) {
  if (!line.is_object()) return false;
  const auto step = line.find("step");
  return step != line.end() && step->is_number_integer() && step->get<int64_t>() <= resumed_step;
}

// Lines stand in the order of their steps, so that those to keep are a prefix. Calls `take` with
// each of them and returns their size in bytes.
template <class Take>
uint64_t take_lines_to_keep(const std::string& path, int64_t resumed_step, const Take& take) {
  std::ifstream stream(path, std::ios::binary);
  uint64_t size = 0;
  for (std::string text; std::getline(stream, text) && !stream.eof();) {
    const Json line = Json::parse(text, nullptr, false);
    if (!belongs(line, resumed_step)) break;
    take(line);
    size += text.size() + 1;
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
      size_(take_lines_to_keep(path_, resumed_step, [](const Json&) {})) {
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

std::vector<std::string> validated_sets(const std::string& path, int64_t step) {
  std::vector<std::string> sets;
  take_lines_to_keep(path, step, [&](const Json& line) {
    const auto kind = line.find("kind"), name = line.find("name");
    if (line["step"] != step || kind == line.end() || *kind != "validation") return;
    if (name != line.end() && name->is_string()) sets.push_back(*name);
  });
  return sets;
}

}  // namespace swiattn
