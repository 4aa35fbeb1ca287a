#include "ops/linear.h"

#include <ATen/ATen.h>

namespace swiattn::reference {

at::Tensor linear_forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

void accumulate_weight_gradient(const at::Tensor& grad, const at::Tensor& x,
                                const at::Tensor& grad_weight) {
  if (grad_weight.scalar_type() == x.scalar_type()) {
    grad_weight.addmm_(grad.t(), x);
  } else {
    grad_weight.add_(at::mm(grad.t(), x));
  }
}

at::Tensor linear_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                           const at::Tensor& grad_weight, const at::Tensor& grad_bias) {
  if (grad_weight.defined()) accumulate_weight_gradient(grad, x, grad_weight);
  if (grad_bias.defined()) grad_bias.add_(grad.sum(0, false, grad_bias.scalar_type()));
  return at::mm(grad, weight);
}

}  // namespace swiattn::reference
