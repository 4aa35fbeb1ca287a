// What a layer's backward needs from its forward, and how much of it waits for the backward: the
// memory of long sequences. What does not wait is computed again, to the same bits.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

#include "attention/switch_attention.h"
#include "model/gate.h"
#include "model/model_config.h"
#include "ops/rms_norm.h"

namespace swiattn {

enum class Recompute {
  kNone,       // everything waits
  kSelective,  // the stream at the entry and what attention gave: no attention is computed twice
  kLayer,      // the stream at the entry
};

struct LayerSaved {
  at::Tensor entry;          // x [T, d], the residual stream at the layer's entry
  RmsNormOutput input_norm;  // h, its norm
  at::Tensor logits;         // s [T]; undefined without a router
  at::Tensor qkv;            // [T, (Hq + 2 Hkv) D] after QK-norm and rotary positions
  at::Tensor raw_queries;    // [T, Hq, D] before QK-norm (Qwen3); undefined without
  at::Tensor raw_keys;       // [T, Hkv, D] likewise
  SwitchSaved attention;     // of kSwitch; the others fill `out` and `logsumexp`
  at::Tensor weight;         // [T] where far rows are sampled (ops/routing.h); else undefined
  at::Tensor middle;         // x' [T, d], the stream after attention
  RmsNormOutput post_norm;   // its norm
  at::Tensor gate_up;        // [T, 2F]

  // Lets go of all that DecoderLayer::recompute() makes again. In every mode the few bytes a token
  // stay that tell what was decided (nothing is drawn twice) and what a loss with an attached gamma
  // reads of all layers before the first backward: route, samples, logits, disagreement.
  void drop(Recompute recompute);
};

// The bytes a token that wait for a layer's backward.
int64_t kept_bytes_per_token(Recompute recompute, const ModelConfig& config,
                             LayerAttention attention, const Gate& gate,
                             at::ScalarType compute_type);

}  // namespace swiattn
