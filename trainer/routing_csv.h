// routing/step-XXXXXXXX.csv: what the router of every layer did in one step, one row a layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/log.h"

namespace swiattn {

// Means over the input tokens of a step. What does not exist (a layer without far tokens) is NaN.
struct RoutingRow {
  int64_t layer = 1;          // from 1
  double full_ratio = 0;      // share of tokens that took full attention
  double full_ratio_far = 0;  // of those with more visible keys than the window
  double logit_mean = 0;
  double logit_std = 0;
  double entropy = 0;  // of the gate's probability, in nats: -p log p - (1-p) log(1-p)
  double gamma_mean = 0;
  double disagreement_mean = 0;
};

// Writes FOLDER/step-XXXXXXXX.csv. The numbers read back exactly; NaN is "nan". Trouble with the
// disk is a warning.
void write_routing_csv(FileSystem& files, const std::string& folder, int64_t step,
                       const std::vector<RoutingRow>& rows, Log& log);

// The file of the latest step in `folder`, parsed, or nothing when there is none. Throws
// Error{kData} naming file and line.
std::vector<RoutingRow> read_latest_routing_csv(const std::string& folder);

// Removes the files of steps after `resumed_step`.
void cut_routing_back(FileSystem& files, const std::string& folder, int64_t resumed_step);

}  // namespace swiattn
