#include "ops/linear.h"

#include <ATen/ATen.h>

namespace swiattn::reference {

at::Tensor linear_forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

at::Tensor linear_add(const at::Tensor& stream, const at::Tensor& x, const at::Tensor& weight) {
  return at::addmm(stream, x, weight.t());
}

at::Tensor linear_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                           const GradientTarget& grad_weight, const GradientTarget& grad_bias) {
  linear_weight_gradient(grad, x, grad_weight);
  linear_bias_gradient(grad, grad_bias);
  return linear_input_gradient(grad, weight);
}

void linear_bias_gradient(const at::Tensor& grad, const GradientTarget& grad_bias) {
  if (grad_bias.defined()) grad_bias.put(grad.sum(0, false, grad_bias.tensor.scalar_type()));
}

at::Tensor linear_input_gradient(const at::Tensor& grad, const at::Tensor& weight) {
  return at::mm(grad, weight);
}

void linear_weight_gradient(const at::Tensor& grad, const at::Tensor& x,
                            const GradientTarget& grad_weight) {
  if (!grad_weight.defined()) return;
  at::Tensor into = grad_weight.tensor;
  if (into.scalar_type() != x.scalar_type()) {
    grad_weight.put(at::mm(grad.t(), x));
  } else if (grad_weight.sum == GradientSum::kWrite) {
    at::mm_out(into, grad.t(), x);
  } else {
    into.addmm_(grad.t(), x);
  }
}

}  // namespace swiattn::reference
