// Rotary position embedding (Su et al. 2021) in the rotate-half layout of Hugging Face checkpoints.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace swiattn {

// cos and sin of every token's angles, [T, D/2] each, in the accumulation type, already multiplied
// by YaRN's attention factor. Made once a micro-batch and shared by all layers.
struct RotaryTable {
  at::Tensor cosine;
  at::Tensor sine;
};

// `positions` [T] int32 or int64; `inverse_frequencies` has D/2 entries, in radians a position.
RotaryTable make_rotary_table(const at::Tensor& positions,
                              const std::vector<double>& inverse_frequencies,
                              double attention_factor, at::ScalarType compute_type);

// In place on x [T, H, D] (a view into the packed projection): for each pair (a, b) = (x_i,
// x_{i+D/2})
//   forward  (a cos - b sin, b cos + a sin)       inverse  (a cos + b sin, b cos - a sin)
// The inverse is the backward: a rotation times the attention factor has its transpose as
// derivative.
enum class RotaryDirection { kForward, kBackward };
using ApplyRotary = void(const at::Tensor& x, const RotaryTable& table, RotaryDirection direction);

namespace reference {
ApplyRotary apply_rotary;
}

}  // namespace swiattn
