#include "trainer/run_result.h"

#include <algorithm>
#include <fstream>

#include "base/json.h"

namespace swiattn {
namespace {

std::optional<double> number(const Json& line, const char* key) {
  const auto found = line.find(key);
  if (found == line.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

void take_step(const Json& line, RunResult& result) {
  result.full_ratio = number(line, "full_ratio");
  result.full_ratio_by_layer.clear();
  const auto layers = line.find("full_ratio_by_layer");
  if (layers == line.end() || !layers->is_array()) return;
  for (const Json& ratio : *layers) {
    if (ratio.is_number()) result.full_ratio_by_layer.push_back(ratio.get<double>());
  }
}

void take_validation(const Json& line, RunResult& result) {
  const auto name = line.find("name");
  if (name == line.end() || !name->is_string()) return;
  const ValidationMetrics metrics{static_cast<int64_t>(number(line, "step").value_or(0)),
                                  name->get<std::string>(),
                                  number(line, "nll").value_or(StepMetrics::kNone),
                                  number(line, "perplexity").value_or(StepMetrics::kNone),
                                  number(line, "full_ratio").value_or(StepMetrics::kNone)};
  auto& sets = result.validation;
  const auto set = std::find_if(sets.begin(), sets.end(), [&](const ValidationMetrics& other) {
    return other.name == metrics.name;
  });
  if (set == sets.end()) {
    sets.push_back(metrics);
  } else {
    *set = metrics;
  }
}

}  // namespace

RunResult read_run_result(const std::string& metrics_path) {
  RunResult result;
  std::ifstream stream(metrics_path, std::ios::binary);
  for (std::string text; std::getline(stream, text);) {
    const Json line = Json::parse(text, nullptr, false);
    if (!line.is_object()) continue;
    const auto kind = line.find("kind");
    if (kind == line.end()) continue;
    if (*kind == "train") take_step(line, result);
    if (*kind == "validation") take_validation(line, result);
  }
  return result;
}

}  // namespace swiattn
