// RMSNorm: y = x / rms(x) * w.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/gradient_target.h"

namespace swiattn {

struct RmsNormOutput {
  at::Tensor normed;       // y, [T, d], the type of x
  at::Tensor inverse_rms;  // 1 / sqrt(mean(x^2) + eps), [T], accumulation type
};

// The mean is taken in float32; the row is rounded to the type of x, then multiplied by w, as in
// transformers.
using RmsNormForward = RmsNormOutput(const at::Tensor& x,       // [T, d]
                                     const at::Tensor& weight,  // [d], the type of x
                                     double eps);

// Returns dL/dx = grad_residual + the gradient through the norm. `grad_residual` may be undefined
// (nothing else reads x).
using RmsNormBackward = at::Tensor(const at::Tensor& grad_normed,       // [T, d]
                                   const at::Tensor& grad_residual,     // [T, d] or undefined
                                   const at::Tensor& x,                 // [T, d] saved
                                   const at::Tensor& weight,            // [d]
                                   const at::Tensor& inverse_rms,       // [T] saved
                                   const GradientTarget& grad_weight);  // [d]

namespace reference {
// 1 / sqrt(mean(x^2) + eps) of each row, in the accumulation type.
at::Tensor inverse_rms(const at::Tensor& x, double eps);
RmsNormForward rms_norm_forward;
RmsNormBackward rms_norm_backward;
}  // namespace reference

}  // namespace swiattn
