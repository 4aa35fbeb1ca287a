// The numbers a run reports: what each is and the names under which files carry it. The names are a
// contract with scripts outside the project.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace swiattn {

// Of one optimizer step, over all its ranks and micro-batches. A number that does not exist (the
// mean gamma without a regularizer) is NaN and becomes null.
struct StepMetrics {
  static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

  int64_t step = 0;    // from 1
  int64_t tokens = 0;  // input tokens so far
  // Of this step, over which loss and regularizer are means: without one they do not exist, and
  // with some a NaN is what they came to. Not in metrics.jsonl.
  int64_t targets = 0;
  double loss = kNone;
  double regularizer = kNone;
  double full_ratio = kNone;                // over all input tokens and layers
  double full_ratio_far = kNone;            // over those with more visible keys than the window
  std::vector<double> full_ratio_by_layer;  // [layers]
  double gamma_mean = kNone;
  double disagreement_mean = kNone;
  double router_logit_mean = kNone;
  double router_logit_std = kNone;
  double grad_norm = kNone;  // before clipping
  double learning_rate = kNone;
  // On the device, from the end of the step before to the end of this one; from when it was begun
  // where something else lay between.
  double step_seconds = kNone;
  double data_seconds = kNone;  // for which the host waited for data; a GPU may have been busy
  double tokens_per_second = kNone;
  double mfu = kNone;
  double memory_gib = kNone;
  int64_t skipped = 0;  // steps without an update so far
};

struct ValidationMetrics {
  int64_t step = 0;
  std::string name;
  double nll = StepMetrics::kNone;
  double perplexity = StepMetrics::kNone;
  double full_ratio = StepMetrics::kNone;
  int64_t targets = 0;  // as in StepMetrics, of the set
};

// One line of metrics.jsonl, with its newline. Numbers read back exactly; non-finite ones are null.
std::string to_json_line(const StepMetrics& metrics);
std::string to_json_line(const ValidationMetrics& metrics);

// Calls `visit` with the name and value of every number of a step that is a scalar, in the order of
// metrics.jsonl, without step and tokens.
using ScalarVisitor = std::function<void(std::string_view name, double value)>;
void visit_scalars(const StepMetrics& metrics, const ScalarVisitor& visit);

}  // namespace swiattn
