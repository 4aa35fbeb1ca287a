// Where a run stands, read back from its metrics.jsonl: for the model card.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/metrics.h"

namespace swiattn {

struct RunResult {
  std::optional<double> full_ratio;           // of the last step
  std::vector<double> full_ratio_by_layer;    // likewise; empty when it is not known
  std::vector<ValidationMetrics> validation;  // the last of every set, in the order of the sets
};

// Damaged lines are left out; without a file nothing is known.
RunResult read_run_result(const std::string& metrics_path);

}  // namespace swiattn
