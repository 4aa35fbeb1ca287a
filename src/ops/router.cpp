#include "ops/router.h"

#include <ATen/ATen.h>

#include "parallel/accumulation_type.h"

namespace swiattn::reference {

RoutedNormOutput routed_norm_forward(const at::Tensor& x, const at::Tensor& norm_weight, double eps,
                                     const at::Tensor& router_weight) {
  RoutedNormOutput out{rms_norm_forward(x, norm_weight, eps), {}};
  const at::Tensor& hidden = out.norm.normed;
  out.logits = at::mv(hidden.to(accumulation_type(hidden.scalar_type())), router_weight.flatten());
  return out;
}

at::Tensor routed_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_logits,
                                const at::Tensor& grad_residual, const at::Tensor& x,
                                const RmsNormOutput& saved, const at::Tensor& norm_weight,
                                const at::Tensor& router_weight,
                                const GradientTarget& grad_norm_weight,
                                const GradientTarget& grad_router_weight) {
  const at::Tensor grad_hidden =
      (grad_normed + grad_logits.unsqueeze(1) * router_weight).to(grad_normed.scalar_type());
  if (grad_router_weight.defined()) {
    grad_router_weight.put(at::mv(saved.normed.to(grad_logits.scalar_type()).t(), grad_logits));
  }
  return rms_norm_backward(grad_hidden, grad_residual, x, norm_weight, saved.inverse_rms,
                           grad_norm_weight);
}

}  // namespace swiattn::reference
