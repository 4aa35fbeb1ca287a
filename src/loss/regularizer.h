// The efficiency regularizers by name (docs/method.md, "The loss and the regularizer").
#pragma once

#include "ops/regularizer_gamma.h"

namespace swiattn {

enum class RegularizerKind {
  kAdaptive,        // gamma / (eps + NLL + alpha * disagreement): the paper's
  kConstant,        // gamma
  kNoNll,           // gamma / (eps + alpha * disagreement)
  kNoDisagreement,  // gamma / (eps + NLL)
  kTargetRatio,     // as kAdaptive, with a gamma that a controller moves
  kNone,
};

struct RegularizerSettings {
  RegularizerKind kind = RegularizerKind::kAdaptive;
  double gamma = 1e-3;
  double eps = 0.1;
  double alpha = 100.0;
};

GammaCoefficients gamma_coefficients(const RegularizerSettings& settings);

// Between these the controller keeps gamma, which kernels read in float32: from nothing no factor
// would bring it back, and what it is multiplied with must not overflow.
inline constexpr double kLeastGamma = 1e-30;
inline constexpr double kMostGamma = 1e30;

// The controller of kTargetRatio: the gamma for the next step, gamma * exp(0.05 (ratio - target) /
// target), where `ratio` is the full ratio of the step just done.
double next_gamma(double gamma, double ratio, double target);

}  // namespace swiattn
