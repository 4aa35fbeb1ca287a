// The gate: which tokens of a layer attend to everything (docs/method.md, section 1).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/micro_batch.h"

namespace swiattn {

enum class GateKind {
  kLearned,  // full exactly when the router's logit is positive
  kRandom,   // full with a fixed probability, no router: the control for "routing absorption"
  kTopK,     // the largest logits of each sequence: a control, not causal
};

struct Gate {
  GateKind kind = GateKind::kLearned;
  double ratio = 0.0;  // of kRandom and kTopK
  uint64_t seed = 0;   // of kRandom

  bool has_router() const { return kind != GateKind::kRandom; }

  // [T] bool. `logits` [T] is undefined for the random gate, whose draw is a hash of (seed, layer,
  // sample, position in the sample). Top-k takes ceil(ratio * S) a sequence, earlier tokens first
  // among equals.
  at::Tensor decide(const at::Tensor& logits, const MicroBatch& batch, int64_t layer) const;
};

}  // namespace swiattn
