// The arithmetic of one AdamW update over spans of a unit's flat buffers, on a CPU and on a GPU.
// Both give the same bits: they share update_element(), whose operations are rounded one by one
// (src/optim/CMakeLists.txt forbids contracting a product and a sum).
//
// Moments kept in bfloat16 take part in an update as they are and are rounded when it is done
// (stochastic_rounding.h); the update itself uses them unrounded.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "base/host_device.h"
#include "optim/stochastic_rounding.h"

namespace swiattn {

enum class MomentType { kFloat32, kBfloat16 };

// One unit's flat buffers, on the host or on a GPU; each begins at a multiple of 16 bytes.
struct AdamWBuffers {
  float* master = nullptr;
  const float* gradient = nullptr;
  void* moment1 = nullptr;  // of type `moments`
  void* moment2 = nullptr;
  void* compute_bf16 = nullptr;  // null when there is no separate copy
  MomentType moments = MomentType::kFloat32;
  uint64_t unit = 0;  // which one, for the draws of the rounding
};

// Elements [begin, end) of the buffers, which decay alike at the same rate.
struct AdamWSpan {
  int64_t begin = 0;
  int64_t end = 0;
  float learning_rate = 0.0F;
  float decay = 0.0F;
};

struct AdamWConstants {
  double beta1 = 0.0;
  double beta2 = 0.0;
  float eps = 0.0F;
  uint64_t seed = 0;  // of the rounding
};

// What all elements of a unit share in an update.
struct AdamWFactors {
  float gradient = 0.0F;
  float correction1 = 0.0F;  // 1 - beta1^n
  float correction2 = 0.0F;
  uint64_t rounding_key = 0;
};

struct AdamWElement {
  float master;
  float moment1;
  float moment2;
};

// 1 - beta^n by squaring, since the power functions of hosts and GPUs differ in their last bits.
SWIATTN_HOST_DEVICE constexpr float bias_correction(double beta, int64_t n) {
  double power = 1.0;
  for (double square = beta; n > 0; n /= 2, square *= square) {
    if (n % 2 == 1) power *= square;
  }
  return static_cast<float>(1.0 - power);
}

SWIATTN_HOST_DEVICE inline AdamWFactors adamw_factors(const AdamWConstants& c, uint64_t unit,
                                                      double factor, int64_t updates) {
  return {static_cast<float>(factor), bias_correction(c.beta1, updates),
          bias_correction(c.beta2, updates),
          rounding_key(c.seed, static_cast<uint64_t>(updates), unit)};
}

SWIATTN_HOST_DEVICE inline AdamWElement update_element(const AdamWElement& x, float gradient,
                                                       const AdamWSpan& span,
                                                       const AdamWConstants& c,
                                                       const AdamWFactors& f) {
  const auto beta1 = static_cast<float>(c.beta1);
  const auto beta2 = static_cast<float>(c.beta2);
  const float g = f.gradient * gradient;
  const float m = beta1 * x.moment1 + (1.0F - beta1) * g;
  const float v = beta2 * x.moment2 + (1.0F - beta2) * g * g;
  const float update = (m / f.correction1) / (std::sqrt(v / f.correction2) + c.eps);
  return {x.master - span.learning_rate * (update + span.decay * x.master), m, v};
}

#ifdef SWIATTN_CUDA
// `factor`, `apply` (float64) and `updates` (int64, already advanced) are device scalars: with
// apply = 0 nothing changes. `stream` is a cudaStream_t. Throws std::runtime_error
// (base/cuda_check.h) when a launch fails.
void adamw_on_gpu(const AdamWBuffers& buffers, const std::vector<AdamWSpan>& spans,
                  const AdamWConstants& constants, const double* factor, const double* apply,
                  const int64_t* updates, void* stream);
#endif

}  // namespace swiattn
