#include "loss/regularizer.h"

#include <algorithm>
#include <cmath>

namespace swiattn {

GammaCoefficients gamma_coefficients(const RegularizerSettings& settings) {
  GammaCoefficients result{.base = settings.gamma,
                           .eps = settings.eps,
                           .nll_weight = 1.0,
                           .disagreement_weight = settings.alpha,
                           .constant = false};
  switch (settings.kind) {
    case RegularizerKind::kAdaptive:
    case RegularizerKind::kTargetRatio:
      break;
    case RegularizerKind::kConstant:
      result.constant = true;
      break;
    case RegularizerKind::kNoNll:
      result.nll_weight = 0.0;
      break;
    case RegularizerKind::kNoDisagreement:
      result.disagreement_weight = 0.0;
      break;
    case RegularizerKind::kNone:
      result.base = 0.0;
      break;
  }
  return result;
}

double next_gamma(double gamma, double ratio, double target) {
  return std::clamp(gamma * std::exp(0.05 * (ratio - target) / target), kLeastGamma, kMostGamma);
}

}  // namespace swiattn
