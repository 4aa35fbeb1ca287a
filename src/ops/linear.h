// y = x W^T + b, or the residual stream with x W^T added. The weight's gradient goes straight into
// the flat gradient buffer, written by the first micro-batch of a step and added to by the others,
// so that micro-batches cost no extra pass.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/gradient_target.h"

namespace swiattn {

using LinearForward = at::Tensor(const at::Tensor& x,       // [T, in]
                                 const at::Tensor& weight,  // [out, in]
                                 const at::Tensor& bias);   // [out] or undefined

// stream + x W^T. The backward is that of the product; dL/dstream is dL/dy itself.
using LinearAdd = at::Tensor(const at::Tensor& stream,   // [T, out], the type of x
                             const at::Tensor& x,        // [T, in]
                             const at::Tensor& weight);  // [out, in]

// Returns dL/dx [T, in]; the weight's and the bias's gradients go to their targets.
using LinearBackward = at::Tensor(const at::Tensor& grad,             // dL/dy [T, out]
                                  const at::Tensor& x,                // [T, in] saved
                                  const at::Tensor& weight,           // [out, in]
                                  const GradientTarget& grad_weight,  // [out, in]
                                  const GradientTarget& grad_bias);   // [out]

// The parts of a backward, where x comes out of what dL/dx is needed for. No target: nothing.
using LinearInputGradient = at::Tensor(const at::Tensor& grad, const at::Tensor& weight);
using LinearWeightGradient = void(const at::Tensor& grad, const at::Tensor& x,
                                  const GradientTarget& grad_weight);
using LinearBiasGradient = void(const at::Tensor& grad, const GradientTarget& grad_bias);

namespace reference {
LinearForward linear_forward;
LinearAdd linear_add;
LinearBackward linear_backward;
LinearInputGradient linear_input_gradient;
LinearWeightGradient linear_weight_gradient;
LinearBiasGradient linear_bias_gradient;
}  // namespace reference

}  // namespace swiattn
