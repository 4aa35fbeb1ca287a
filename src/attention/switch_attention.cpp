#include "attention/switch_attention.h"

#include <ATen/ATen.h>

#include "base/check.h"

namespace swiattn {

namespace {

// Every token's both branches, for a gradient that reaches their difference. Their log-sum-exps are
// computed again: no other backward has need of that of the branch not taken.
void both_branches_backward(const AttentionBackend& backend, const at::Tensor& grad_out,
                            const at::Tensor& grad_difference, const at::Tensor& qkv,
                            const SwitchSaved& saved, const DocumentLayout& layout,
                            const AttentionShape& shape, const at::Tensor& grad_qkv) {
  const at::Tensor route = saved.route.view({-1, 1, 1}).to(grad_out.scalar_type());
  const at::Tensor near_out = saved.out - route * saved.difference;
  const at::Tensor grad_full = grad_out * route + grad_difference;
  const at::Tensor grad_near = grad_out * (1 - route) - grad_difference;
  const at::Tensor lse_near = backend.forward(Band::kNear, qkv, layout, shape).logsumexp;
  const at::Tensor lse_full =
      at::logaddexp(lse_near, backend.forward(Band::kFar, qkv, layout, shape).logsumexp);
  backend.backward(Band::kFull, grad_full, qkv, {near_out + saved.difference, lse_full}, {}, layout,
                   shape, grad_qkv, GradientSum::kWrite);
  backend.backward(Band::kNear, grad_near, qkv, {near_out, lse_near}, {}, layout, shape, grad_qkv,
                   GradientSum::kAdd);
}

}  // namespace

at::Tensor switch_attention_backward(const AttentionBackend& backend, const at::Tensor& grad_out,
                                     const at::Tensor& grad_difference, const at::Tensor& qkv,
                                     const SwitchSaved& saved, const DocumentLayout& layout,
                                     const AttentionShape& shape, const at::Tensor& grad_qkv) {
  if (!grad_difference.defined()) {
    return backend.switch_backward(grad_out, qkv, saved, layout, shape, grad_qkv);
  }
  SWIATTN_CHECK(!saved.both.defined(), "not every token has a difference to differentiate");
  both_branches_backward(backend, grad_out, grad_difference, qkv, saved, layout, shape, grad_qkv);
  return backend.gate_gradient(grad_out, saved, layout, shape);
}

}  // namespace swiattn
