#include "ops/swiglu.h"

#include <ATen/ATen.h>

namespace swiattn::reference {

at::Tensor swiglu_forward(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  return at::silu(gate_up.narrow(1, 0, width)).mul_(gate_up.narrow(1, width, width));
}

SwigluGradients swiglu_backward(const at::Tensor& grad, const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  const at::Tensor gate = gate_up.narrow(1, 0, width);
  const at::Tensor up = gate_up.narrow(1, width, width);
  at::Tensor silu = at::silu(gate);
  at::Tensor result = at::empty_like(gate_up);
  at::Tensor grad_up = result.narrow(1, width, width);
  at::mul_out(grad_up, grad, silu);
  result.narrow(1, 0, width).copy_(at::silu_backward(grad * up, gate));
  return {result, silu.mul_(up)};
}

}  // namespace swiattn::reference
