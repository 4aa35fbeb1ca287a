#include "trainer/step_sums.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

namespace swiattn {
namespace {

using S = RoutingStatistics;

enum Header : int64_t { kNll, kCountedTargets, kStop, kGradNorm, kApplied, kHeader };

double ratio(double part, double whole) { return whole > 0 ? part / whole : StepMetrics::kNone; }

}  // namespace

StepSums::StepSums(int64_t layers, c10::Device device)
    : layers_(layers),
      sums_(at::zeros({kHeader + layers * S::kColumns},
                      at::TensorOptions().dtype(at::kDouble).device(device))) {}

void StepSums::add(const MicroBatchResult& result, const MicroBatch& batch) {
  sums_[kNll].add_(result.nll.sum(at::kDouble));
  sums_[kCountedTargets].add_(batch.counted.sum());
  sums_.narrow(0, kHeader, layers_ * S::kColumns).add_(result.statistics.flatten());
}

void StepSums::ask_to_stop() { sums_[kStop].fill_(1.0); }

void StepSums::set_update(const at::Tensor& grad_norm, const at::Tensor& applied) {
  sums_[kGradNorm].copy_(grad_norm);
  sums_[kApplied].copy_(applied);
}

at::Tensor StepSums::nll() const { return sums_[kNll]; }
at::Tensor StepSums::counted() const { return sums_[kCountedTargets]; }

StepReport::StepReport(const at::Tensor& sums) {
  const double* values = sums.const_data_ptr<double>();
  nll_sum = values[kNll];
  counted = values[kCountedTargets];
  stop = values[kStop] > 0;
  grad_norm = values[kGradNorm];
  applied = values[kApplied] > 0;
  for (int64_t row = kHeader; row < sums.numel(); row += S::kColumns) {
    layers.emplace_back(values + row, values + row + S::kColumns);
  }
}

double StepReport::loss() const { return ratio(nll_sum, counted); }

double StepReport::total(int64_t column) const {
  double sum = 0.0;
  for (const auto& layer : layers) sum += layer[static_cast<size_t>(column)];
  return sum;
}

double StepReport::full_ratio() const { return ratio(total(S::kFull), total(S::kTokens)); }

double StepReport::regularizer() const {
  return ratio(total(S::kRegularizer), static_cast<double>(layers.size()) * counted);
}

void describe_routing(const StepReport& report, bool with_router, bool with_gamma,
                      StepMetrics& metrics) {
  metrics.targets = static_cast<int64_t>(report.counted);
  metrics.loss = report.loss();
  metrics.regularizer = report.regularizer();
  metrics.full_ratio = report.full_ratio();
  metrics.full_ratio_far = ratio(report.total(S::kFarFull), report.total(S::kFarTokens));
  metrics.full_ratio_by_layer.clear();
  for (const auto& layer : report.layers) {
    metrics.full_ratio_by_layer.push_back(ratio(layer[S::kFull], layer[S::kTokens]));
  }
  const double tokens = report.total(S::kTokens);
  if (with_router) {
    metrics.disagreement_mean = ratio(report.total(S::kDisagreement), tokens);
    metrics.router_logit_mean = ratio(report.total(S::kLogit), tokens);
    metrics.router_logit_std =
        standard_deviation(metrics.router_logit_mean, ratio(report.total(S::kLogitSquare), tokens));
  }
  if (with_gamma) metrics.gamma_mean = ratio(report.total(S::kGamma), report.total(S::kCounted));
}

}  // namespace swiattn
