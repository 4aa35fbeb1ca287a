#include "model/routing_statistics.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace swiattn {

double standard_deviation(double mean, double mean_of_squares) {
  const double variance = mean_of_squares - mean * mean;
  return std::isnan(variance) ? variance : std::sqrt(std::max(0.0, variance));
}

at::Tensor routing_row(const MicroBatch& batch, int64_t window, const at::Tensor& route,
                       const at::Tensor& logits, const at::Tensor& disagreement) {
  using S = RoutingStatistics;
  at::Tensor row = at::zeros({S::kColumns}, route.options().dtype(at::kDouble));
  const at::Tensor far = batch.layout.position >= window;
  const at::Tensor visible = batch.layout.position + 1;
  row[S::kTokens] = static_cast<double>(batch.tokens());
  row[S::kFull].copy_(route.sum());
  row[S::kFarTokens].copy_(far.sum());
  row[S::kFarFull].copy_(far.logical_and(route).sum());
  row[S::kCounted].copy_(batch.counted.sum());
  row[S::kVisiblePairs].copy_(at::where(route, visible, visible.clamp_max(window)).sum());
  if (logits.defined()) {
    const at::Tensor s = logits.to(at::kDouble);
    const at::Tensor p = s.sigmoid();
    row[S::kLogit].copy_(s.sum());
    row[S::kLogitSquare].copy_(s.square().sum());
    row[S::kEntropy].copy_((at::softplus(s) - s * p).sum());  // -p ln p - (1-p) ln(1-p)
  }
  if (disagreement.defined()) row[S::kDisagreement].copy_(disagreement.sum(at::kDouble));
  return row;
}

}  // namespace swiattn
