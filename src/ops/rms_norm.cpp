#include "ops/rms_norm.h"

#include <ATen/ATen.h>

#include "parallel/accumulation_type.h"

namespace swiattn::reference {

at::Tensor inverse_rms(const at::Tensor& x, double eps) {
  return (x.to(accumulation_type(x.scalar_type())).square().mean(-1) + eps).rsqrt();
}

RmsNormOutput rms_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps) {
  RmsNormOutput out;
  const at::Tensor wide = x.to(accumulation_type(x.scalar_type()));
  out.inverse_rms = inverse_rms(wide, eps);
  out.normed = (wide * out.inverse_rms.unsqueeze(-1)).to(x.scalar_type()) * weight;
  return out;
}

at::Tensor rms_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_residual,
                             const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& inverse_rms, const GradientTarget& grad_weight) {
  const auto wide = accumulation_type(x.scalar_type());
  const at::Tensor unit = x.to(wide) * inverse_rms.unsqueeze(-1);  // x / rms
  const at::Tensor grad = grad_normed.to(wide);
  if (grad_weight.defined()) {
    // The forward multiplied the weight by the rounded row.
    grad_weight.put((grad * unit.to(x.scalar_type())).sum(0));
  }
  const at::Tensor grad_unit = grad * weight;
  at::Tensor grad_x =
      (grad_unit - unit * (grad_unit * unit).mean(-1, true)) * inverse_rms.unsqueeze(-1);
  if (grad_residual.defined()) grad_x.add_(grad_residual);
  return grad_x.to(x.scalar_type());
}

}  // namespace swiattn::reference
