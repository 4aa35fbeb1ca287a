// What is drawn at random for a token, as functions of counters (base/counter_random.h): the same
// on CPUs and GPUs, in a resume, on any number of ranks and in a recomputation. A sample's number
// is that in the order of the whole run, so that a step need not be counted: every step has its own
// samples. Free of LibTorch, for kernels.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/counter_random.h"
#include "base/host_device.h"

namespace swiattn {

// A token of a layer.
struct TokenCounters {
  uint64_t seed;
  uint64_t layer;
  uint64_t sample;
  uint64_t position;  // in the sample
};

// Uniform in [0, 1), of the random gate.
SWIATTN_HOST_DEVICE constexpr double gate_draw(const TokenCounters& token) {
  return uniform_from_bits(counter_bits({token.seed, token.layer, token.sample, token.position}));
}

// Uniform in [0, 1), of the sampling of far rows.
SWIATTN_HOST_DEVICE constexpr double sampling_draw(const TokenCounters& token) {
  constexpr uint64_t kSamplingStream = 0x666172726f7773;  // keeps these draws apart from all others
  return uniform_from_bits(
      counter_bits({kSamplingStream, token.seed, token.layer, token.sample, token.position}));
}

// How often a token that does not take full attention gets both branches nevertheless
// (docs/method.md, "Sampled far rows"): with probability clip(scale * variance, minimum, 1).
struct FarSampling {
  double minimum = 0.02;  // in (0, 1]
  double scale = 0.5;     // not negative

  // `variance` is p (1 - p), p the gate's probability.
  SWIATTN_HOST_DEVICE double probability(double variance) const {
    return std::fmin(std::fmax(scale * variance, minimum), 1.0);
  }
};

// p (1 - p) of p = sigmoid(logit), without overflow and without cancellation.
SWIATTN_HOST_DEVICE inline double gate_variance(double logit) {
  const double e = std::exp(-std::fabs(logit));
  return e / ((1.0 + e) * (1.0 + e));
}

// What becomes of one token.
struct SampledToken {
  bool both;     // its far keys are visited
  float weight;  // of its ds, and of its terms of estimated sums
};
SWIATTN_HOST_DEVICE inline SampledToken sample_token(const FarSampling& sampling,
                                                     const TokenCounters& token, double variance,
                                                     bool routed, bool has_far) {
  if (routed || !has_far) return {has_far, 1.0F};
  const double probability = sampling.probability(variance);
  if (sampling_draw(token) >= probability) return {false, 0.0F};
  return {true, static_cast<float>(1.0 / probability)};
}

}  // namespace swiattn
