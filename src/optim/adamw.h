// AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019) over flat parameter buffers:
//
//   g = factor * gradient                            factor: 1/T and the clip in one
//   m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
//   p -= lr * ( (m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps) + decay * p )
//
// in float32, the moments kept in float32 or in bfloat16 (stochastic_rounding.h), n counting the
// updates that were applied; the same bits on a CPU and on a GPU. Matrices decay, embeddings
// included; norms, biases and routers do not; routers have a rate of their own.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "optim/adamw_kernel.h"
#include "parallel/flat_parameters.h"

namespace swiattn {

struct AdamWSettings {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double router_rate_multiplier = 1.0;
  uint64_t seed = 0;  // of the rounding of moments in bfloat16
};

class AdamW {
 public:
  // Borrows the parameters.
  AdamW(const AdamWSettings& settings, FlatParameters& parameters);

  // One update of masters, moments and compute copies. `factor` and `apply` are float64 scalars on
  // the parameters' device: with apply = 0 nothing changes, not even the count, so that the
  // decision to skip never needs the host.
  void step(double learning_rate, const at::Tensor& factor, const at::Tensor& apply);

  // Updates applied so far: an int64 scalar on the device; part of a checkpoint.
  const at::Tensor& updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_.fill_(updates); }

 private:
  double rate_multiplier(const Segment& segment) const;
  double decay(const Segment& segment) const;
  // The trained elements of a unit, neighbours that are treated alike joined.
  std::vector<AdamWSpan> spans(const FlatUnit& unit, double learning_rate) const;
  void step_on_gpu(double learning_rate, const AdamWConstants& constants, const at::Tensor& factor,
                   const at::Tensor& apply);

  AdamWSettings settings_;
  FlatParameters& parameters_;
  at::Tensor updates_;
};

}  // namespace swiattn
