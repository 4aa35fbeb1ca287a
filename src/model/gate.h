// The gate: which tokens of a layer attend to everything (docs/method.md, "One layer"), and which
// others get both branches in training (docs/method.md, "Sampled far rows").
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "model/micro_batch.h"
#include "ops/operations.h"

namespace swiattn {

enum class GateKind {
  kLearned,  // full exactly when the router's logit is positive
  kRandom,   // full with a fixed probability, no router: the control for "routing absorption"
  kTopK,     // the largest logits of each sequence: a control, not causal
};

struct Gate {
  GateKind kind = GateKind::kLearned;
  double ratio = 0.0;                       // of kRandom and kTopK
  uint64_t seed = 0;                        // of what is drawn
  std::optional<FarSampling> far_sampling;  // nothing: training computes both branches of all

  bool has_router() const { return kind != GateKind::kRandom; }

  // [T] bool. `logits` [T] is undefined for the random gate, whose draw is a hash of (seed, layer,
  // sample, position in the sample). Top-k takes ceil(ratio * S) a sequence, earlier tokens first
  // among equals.
  at::Tensor decide(const Operations& operations, const at::Tensor& logits, const MicroBatch& batch,
                    int64_t layer) const;

  // Which tokens get both branches, given what decide() has returned, and their weights. Needs
  // far_sampling.
  SampledRows sample(const Operations& operations, const at::Tensor& logits,
                     const at::Tensor& route, const MicroBatch& batch, int64_t layer) const;
};

}  // namespace swiattn
