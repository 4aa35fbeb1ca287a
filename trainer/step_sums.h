// What a step adds up over micro-batches and ranks, and what its update came to, in one tensor, so
// that one all-reduce and one read-back serve it all.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

#include "model/causal_lm.h"
#include "trainer/metrics.h"

namespace swiattn {

class StepSums {
 public:
  StepSums(int64_t layers, c10::Device device);

  void add(const MicroBatchResult& result, const MicroBatch& batch);
  void ask_to_stop();  // this rank got a signal

  // After the reduction, float64 scalars on the device: the norm of the gradient after 1/T, before
  // clipping, and 1 where the update is applied, 0 where it is skipped.
  void set_update(const at::Tensor& grad_norm, const at::Tensor& applied);

  at::Tensor& tensor() { return sums_; }  // float64, to be all-reduced
  at::Tensor nll() const;                 // scalars on the device
  at::Tensor counted() const;

 private:
  int64_t layers_;
  at::Tensor sums_;
};

// The reduced sums on the host.
struct StepReport {
  // `sums`: StepSums::tensor() in host memory.
  explicit StepReport(const at::Tensor& sums);

  double nll_sum = 0.0;
  double counted = 0.0;
  bool stop = false;  // any rank was asked to
  double grad_norm = 0.0;
  bool applied = false;                     // false: the weights are as before
  std::vector<std::vector<double>> layers;  // [layers][RoutingStatistics::kColumns]

  double loss() const;                 // of the counted targets; kNone without one
  double total(int64_t column) const;  // over layers
  double full_ratio() const;
  // 1/(L T) sum gamma softplus(s); kNone without a counted target.
  double regularizer() const;
};

// Fills what the sums tell: loss, regularizer, ratios, router and gamma means. `with_router` tells
// whether the layers have logits, `with_gamma` whether a regularizer acts.
void describe_routing(const StepReport& report, bool with_router, bool with_gamma,
                      StepMetrics& metrics);

}  // namespace swiattn
