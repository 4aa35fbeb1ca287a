// Tokens drawn at random: those of a gate without a router, and those that get both branches though
// they take the window (docs/method.md, "Sampled far rows").
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/token_draws.h"

namespace swiattn {

// The tokens of a layer that are drawn for: token t is position t % S of sample t / S.
struct DrawnTokens {
  uint64_t seed = 0;
  int64_t layer = 0;
  at::Tensor samples;           // [B] int64, numbers in the order of the whole run
  int64_t sequence_length = 0;  // S

  int64_t tokens() const { return samples.size(0) * sequence_length; }
};

// [T] bool, each token with this probability.
using DrawRows = at::Tensor(const DrawnTokens& tokens, double probability);

// What the gate makes of the tokens.
struct GatedTokens {
  at::Tensor logits;    // [T] s, p = sigmoid(s); undefined: p = `ratio` everywhere
  double ratio = 0.0;   // without logits
  at::Tensor route;     // [T] bool, full attention
  at::Tensor position;  // [T] int64, index in the document
  int64_t window = 0;   // w
};

struct SampledRows {
  // [T] bool: routed or drawn, and with far keys. Rows without any are not marked: their branches
  // are the same at no cost.
  at::Tensor both;
  // [T] float32: 1 where routed or without far keys, else 1 / probability where drawn, 0 where not.
  at::Tensor weight;
};
using SampleRows = SampledRows(const DrawnTokens& tokens, const FarSampling& sampling,
                               const GatedTokens& gated);

namespace reference {
DrawRows draw_rows;
SampleRows sample_rows;
}  // namespace reference

}  // namespace swiattn
