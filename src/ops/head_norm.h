// The RMSNorm of every head of queries or keys, and the rotary positions behind it (Qwen3). Both
// need the same elements, so that one pass over the packed projection does for them.
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/rotary.h"
#include "parallel/gradient_target.h"

namespace swiattn {

// In place on `x`, a view into the packed projection: each row x[t, h] becomes its norm (as in
// rms_norm.h, rounded alike) and is then turned (rotary.h). Returns x as it was, contiguous, which
// is all that the backward needs.
using HeadNormForward = at::Tensor(const at::Tensor& x,       // [T, H, D]
                                   const at::Tensor& weight,  // [D], the type of x
                                   double eps, const RotaryTable& table);

// In place on `grad`, a view into the packed projection's gradient: of the loss by what the forward
// left in x, then by what it found there. 1 / rms is computed again, since the row is read anyway.
using HeadNormBackward = void(const at::Tensor& grad,    // [T, H, D]
                              const at::Tensor& before,  // [T, H, D], the forward's result
                              const at::Tensor& weight,  // [D]
                              double eps, const RotaryTable& table,
                              const GradientTarget& grad_weight);  // [D]

namespace reference {
HeadNormForward head_norm_forward;
HeadNormBackward head_norm_backward;
}  // namespace reference

}  // namespace swiattn
