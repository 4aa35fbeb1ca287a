// Tokens to draw for: what a layer knows of them, with logits from nothing to far beyond where e^s
// overflows.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "ops/drawn_rows.h"

namespace swiattn {

struct DrawnCase {
  DrawnTokens tokens;
  GatedTokens gated;

  DrawnCase to(c10::Device device) const {
    DrawnCase moved = *this;
    moved.tokens.samples = tokens.samples.to(device);
    moved.gated.route = gated.route.to(device);
    moved.gated.position = gated.position.to(device);
    if (gated.logits.defined()) moved.gated.logits = gated.logits.to(device);
    return moved;
  }
};

// Samples of a long run; documents of 77 tokens, w = 10.
inline DrawnCase drawn_case(int64_t samples, int64_t length, bool with_logits) {
  at::manual_seed(samples * 131 + length);
  const int64_t count = samples * length;
  DrawnCase c;
  c.tokens = {0xfedcba9876543210, 21, at::arange(samples, at::kLong) * 7919 + (int64_t{1} << 40),
              length};
  c.gated.position = at::arange(count, at::kLong).remainder(77);
  c.gated.window = 10;
  c.gated.ratio = 0.3;
  c.gated.route = at::rand({count}) < 0.3;
  if (!with_logits) return c;
  c.gated.logits = at::randn({count}).pow(3) * 5;
  c.gated.logits.masked_fill_(at::rand({count}) < 0.02, 1000.0);
  c.gated.logits.masked_fill_(at::rand({count}) < 0.02, -1000.0);
  c.gated.route = c.gated.logits > 0;
  return c;
}

inline std::vector<DrawnCase> drawn_cases() {
  std::vector<DrawnCase> all;
  for (const bool with_logits : {true, false}) {
    all.push_back(drawn_case(0, 16, with_logits));
    for (const int64_t samples : {1, 3}) {
      for (const int64_t length : {1, 7, 255, 256, 257, 4099}) {
        all.push_back(drawn_case(samples, length, with_logits));
      }
    }
  }
  return all;
}

inline std::vector<FarSampling> samplings() {
  return {{0.02, 0.5}, {0.3, 0.0}, {1e-3, 100.0}, {1.0, 0.0}};
}

}  // namespace swiattn
