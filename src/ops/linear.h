// y = x W^T + b. The weight's gradient is accumulated straight into the flat gradient buffer, so
// that micro-batches cost no extra pass.
#pragma once

#include <ATen/core/Tensor.h>

namespace swiattn {

using LinearForward = at::Tensor(const at::Tensor& x,       // [T, in]
                                 const at::Tensor& weight,  // [out, in]
                                 const at::Tensor& bias);   // [out] or undefined

// Returns dL/dx [T, in].
using LinearBackward =
    at::Tensor(const at::Tensor& grad,         // dL/dy [T, out]
               const at::Tensor& x,            // [T, in] saved
               const at::Tensor& weight,       // [out, in]
               const at::Tensor& grad_weight,  // [out, in] float32, += ; or undefined
               const at::Tensor& grad_bias);   // [out] float32, += ; or undefined

// grad_weight += grad^T x alone, for callers that form dL/dx themselves.
using AccumulateWeightGradient = void(const at::Tensor& grad, const at::Tensor& x,
                                      const at::Tensor& grad_weight);

namespace reference {
LinearForward linear_forward;
LinearBackward linear_backward;
AccumulateWeightGradient accumulate_weight_gradient;
}  // namespace reference

}  // namespace swiattn
