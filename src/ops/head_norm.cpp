#include "ops/head_norm.h"

#include <ATen/ATen.h>

#include "ops/rms_norm.h"

namespace swiattn::reference {
namespace {

at::Tensor rows(const at::Tensor& heads) { return heads.flatten(0, 1); }

}  // namespace

at::Tensor head_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps,
                             const RotaryTable& table) {
  at::Tensor before = x.clone(at::MemoryFormat::Contiguous);
  x.copy_(rms_norm_forward(rows(before), weight, eps).normed.view(x.sizes()));
  apply_rotary(x, table, RotaryDirection::kForward);
  return before;
}

void head_norm_backward(const at::Tensor& grad, const at::Tensor& before, const at::Tensor& weight,
                        double eps, const RotaryTable& table, const GradientTarget& grad_weight) {
  apply_rotary(grad, table, RotaryDirection::kBackward);
  const at::Tensor x = rows(before);
  grad.copy_(rms_norm_backward(rows(grad), {}, x, weight, inverse_rms(x, eps), grad_weight)
                 .view(grad.sizes()));
}

}  // namespace swiattn::reference
