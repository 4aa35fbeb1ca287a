// The router and the norm before it, which reads the same rows: h = RMSNorm(x), s = <h, w>.
//
//   s_t = <h_t, w>             in float32, of the compute-type h with the float32 w, everywhere
//   ds_t → dw += sum_t ds_t h_t,   dh_t += ds_t w, which goes on through the norm
#pragma once

#include <ATen/core/Tensor.h>

#include "ops/rms_norm.h"
#include "parallel/gradient_target.h"

namespace swiattn {

// The router's weight is [1, d], in the accumulation type.
struct RoutedNormOutput {
  RmsNormOutput norm;  // of rms_norm.h's forward
  at::Tensor logits;   // s [T], accumulation type
};

using RoutedNormForward = RoutedNormOutput(const at::Tensor& x,            // [T, d]
                                           const at::Tensor& norm_weight,  // [d], the type of x
                                           double eps,
                                           const at::Tensor& router_weight);  // [1, d]

// Returns dL/dx, as rms_norm.h's backward with the gradient grad_normed + ds w. That sum may be
// rounded to the compute type or kept in float32.
using RoutedNormBackward =
    at::Tensor(const at::Tensor& grad_normed,    // [T, d], by other ways than the router
               const at::Tensor& grad_logits,    // ds [T]
               const at::Tensor& grad_residual,  // [T, d]
               const at::Tensor& x,              // [T, d] saved
               const RmsNormOutput& saved, const at::Tensor& norm_weight,
               const at::Tensor& router_weight, const GradientTarget& grad_norm_weight,
               const GradientTarget& grad_router_weight);  // [d] and [1, d]

namespace reference {
RoutedNormForward routed_norm_forward;
RoutedNormBackward routed_norm_backward;
}  // namespace reference

}  // namespace swiattn
