// Linear layers on a GPU in bfloat16: the weight's gradient goes from the tensor cores straight
// into the float32 buffer, so that accumulating it over micro-batches costs no pass of its own.
#include <ATen/ATen.h>

#include "ops/fused_operations.h"
#include "ops/gemm.h"

namespace swiattn::fused {
namespace {

bool supported(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 && tensor.stride(-1) == 1 && tensor.numel() > 0;
}

}  // namespace

at::Tensor linear_forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (bias.defined() || !supported(x) || !supported(weight)) {
    return reference::linear_forward(x, weight, bias);
  }
  at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
  gemm(x, weight.t(), y, GradientSum::kWrite);
  return y;
}

// The product's kernel reads the stream and adds it before it rounds: no pass of its own.
at::Tensor linear_add(const at::Tensor& stream, const at::Tensor& x, const at::Tensor& weight) {
  if (!supported(stream) || !stream.is_contiguous() || !supported(x) || !supported(weight)) {
    return reference::linear_add(stream, x, weight);
  }
  at::Tensor y = at::empty_like(stream);
  gemm(x, weight.t(), stream, y);
  return y;
}

at::Tensor linear_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                           const GradientTarget& grad_weight, const GradientTarget& grad_bias) {
  fused::linear_weight_gradient(grad, x, grad_weight);
  reference::linear_bias_gradient(grad, grad_bias);
  return fused::linear_input_gradient(grad, weight);
}

at::Tensor linear_input_gradient(const at::Tensor& grad, const at::Tensor& weight) {
  if (!supported(grad) || !supported(weight)) {
    return reference::linear_input_gradient(grad, weight);
  }
  at::Tensor grad_x = at::empty({grad.size(0), weight.size(1)}, grad.options());
  gemm(grad, weight, grad_x, GradientSum::kWrite);
  return grad_x;
}

void linear_weight_gradient(const at::Tensor& grad, const at::Tensor& x,
                            const GradientTarget& grad_weight) {
  if (!grad_weight.defined()) return;
  if (!supported(grad) || !supported(x)) {
    return reference::linear_weight_gradient(grad, x, grad_weight);
  }
  gemm(grad.t(), x, grad_weight.tensor, grad_weight.sum);
}

}  // namespace swiattn::fused
