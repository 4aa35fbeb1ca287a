#include "trainer/routing_csv.h"

#include <cstdlib>
#include <optional>
#include <sstream>

#include "base/error.h"

namespace swiattn {
namespace {

constexpr const char* kHeader =
    "layer,full_ratio,full_ratio_far,logit_mean,logit_std,entropy,gamma_mean,disagreement_mean";

std::string file_name(int64_t step) { return fmt::format("step-{:08}.csv", step); }

std::optional<int64_t> step_of(const std::string& name) {
  const int64_t step = name.starts_with("step-") ? std::atoll(name.c_str() + 5) : -1;
  return step >= 0 && name == file_name(step) ? std::optional(step) : std::nullopt;
}

RoutingRow parse_row(const std::string& line, const std::string& place) {
  RoutingRow row;
  double layer = 0;
  double* const columns[] = {&layer,          &row.full_ratio,       &row.full_ratio_far,
                             &row.logit_mean, &row.logit_std,        &row.entropy,
                             &row.gamma_mean, &row.disagreement_mean};
  const char* next = line.c_str();
  for (double* const column : columns) {
    char* end = nullptr;
    *column = std::strtod(next, &end);
    const char expected = column == columns[std::size(columns) - 1] ? '\0' : ',';
    if (end == next || *end != expected) {
      fail(ExitCode::kData, "{}: expected {} numbers, found '{}'.", place, std::size(columns),
           line);
    }
    next = end + 1;
  }
  row.layer = static_cast<int64_t>(layer);
  return row;
}

}  // namespace

void write_routing_csv(FileSystem& files, const std::string& folder, int64_t step,
                       const std::vector<RoutingRow>& rows, Log& log) {
  std::string text = fmt::format("{}\n", kHeader);
  for (const RoutingRow& row : rows) {
    text += fmt::format("{},{},{},{},{},{},{},{}\n", row.layer, row.full_ratio, row.full_ratio_far,
                        row.logit_mean, row.logit_std, row.entropy, row.gamma_mean,
                        row.disagreement_mean);
  }
  try {
    files.make_folders(folder);
    write_file_atomically(files, folder + "/" + file_name(step), text);
  } catch (const FileError& error) {
    log.warning("{} The routing of step {} is not written.", error.what(), step);
  }
}

std::vector<RoutingRow> read_latest_routing_csv(const std::string& folder) {
  std::optional<int64_t> latest;
  if (folder_exists(folder)) {
    for (const std::string& name : list_folder(folder, ExitCode::kData)) {
      latest = std::max(latest, step_of(name));
    }
  }
  std::vector<RoutingRow> rows;
  if (!latest) return rows;
  const std::string path = folder + "/" + file_name(*latest);
  std::istringstream lines(read_file(path, ExitCode::kData));
  std::string line;
  if (!std::getline(lines, line) || line != kHeader) {
    fail(ExitCode::kData, "{}: the first line is not '{}'.", path, kHeader);
  }
  for (int number = 2; std::getline(lines, line); ++number) {
    rows.push_back(parse_row(line, fmt::format("{}:{}", path, number)));
  }
  return rows;
}

void cut_routing_back(FileSystem& files, const std::string& folder, int64_t resumed_step) {
  if (!folder_exists(folder)) return;
  for (const std::string& name : list_folder(folder, ExitCode::kData)) {
    if (step_of(name).value_or(0) > resumed_step) files.remove_file(folder + "/" + name);
  }
}

}  // namespace swiattn
