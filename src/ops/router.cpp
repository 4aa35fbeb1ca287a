#include "ops/router.h"

#include <ATen/ATen.h>

#include "parallel/accumulation_type.h"

namespace swiattn::reference {

at::Tensor router_forward(const at::Tensor& hidden, const at::Tensor& weight) {
  return at::mv(hidden.to(accumulation_type(hidden.scalar_type())), weight);
}

void router_backward(const at::Tensor& grad_logits, const at::Tensor& hidden,
                     const at::Tensor& weight, const at::Tensor& grad_hidden,
                     const at::Tensor& grad_weight) {
  grad_hidden.add_(grad_logits.unsqueeze(1) * weight);
  if (grad_weight.defined()) {
    grad_weight.add_(at::mv(hidden.to(grad_logits.scalar_type()).t(), grad_logits));
  }
}

}  // namespace swiattn::reference
