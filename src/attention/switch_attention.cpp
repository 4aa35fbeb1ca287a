#include "attention/switch_attention.h"

#include <ATen/ATen.h>

#include "parallel/accumulation_type.h"

namespace swiattn {

SwitchSaved switch_attention_forward(const AttentionBackend& backend, const at::Tensor& qkv,
                                     const at::Tensor& route, const DocumentLayout& layout,
                                     const AttentionShape& shape, DisagreementReduction reduction) {
  const Attended near = backend.forward(Band::kNear, qkv, layout, shape);
  const Attended far = backend.forward(Band::kFar, qkv, layout, shape);

  // Merge by log-sum-exp: o_full - o_near = p_far (o_far - o_near), p_far the far keys' share of
  // the softmax. Formed as this product the difference keeps its precision where little mass is
  // far, and is exactly zero in rows without a far key.
  SwitchSaved saved;
  saved.route = route;
  saved.logsumexp_near = near.logsumexp;
  saved.logsumexp_full = at::logaddexp(near.logsumexp, far.logsumexp);
  const auto wide = accumulation_type(qkv.scalar_type());
  const at::Tensor far_share =
      (far.logsumexp - saved.logsumexp_full).exp().t().unsqueeze(-1);  // [T, Hq, 1]
  const at::Tensor near_out = near.out.to(wide);
  const at::Tensor difference = far_share * (far.out.to(wide) - near_out);
  saved.out =
      at::where(route.view({-1, 1, 1}), near_out + difference, near_out).to(qkv.scalar_type());
  saved.disagreement = difference.square().sum({1, 2});
  if (reduction == DisagreementReduction::kMean) {
    saved.disagreement.div_(static_cast<double>(shape.heads * shape.head_dim));
  }
  saved.difference = difference.to(qkv.scalar_type());
  return saved;
}

namespace {

// Every token's both branches, for a gradient that reaches their difference.
void both_branches_backward(const AttentionBackend& backend, const at::Tensor& grad_out,
                            const at::Tensor& grad_difference, const at::Tensor& qkv,
                            const SwitchSaved& saved, const DocumentLayout& layout,
                            const AttentionShape& shape, const at::Tensor& grad_qkv) {
  const at::Tensor route = saved.route.view({-1, 1, 1}).to(grad_out.scalar_type());
  const at::Tensor near_out = saved.out - route * saved.difference;
  const at::Tensor grad_full = grad_out * route + grad_difference;
  const at::Tensor grad_near = grad_out * (1 - route) - grad_difference;
  backend.backward(Band::kFull, grad_full, qkv, {near_out + saved.difference, saved.logsumexp_full},
                   {}, layout, shape, grad_qkv);
  backend.backward(Band::kNear, grad_near, qkv, {near_out, saved.logsumexp_near}, {}, layout, shape,
                   grad_qkv);
}

}  // namespace

at::Tensor switch_attention_backward(const AttentionBackend& backend, const at::Tensor& grad_out,
                                     const at::Tensor& grad_difference, const at::Tensor& qkv,
                                     const SwitchSaved& saved, const DocumentLayout& layout,
                                     const AttentionShape& shape, const at::Tensor& grad_qkv) {
  const auto wide = accumulation_type(qkv.scalar_type());
  const at::Tensor grad_gate = (grad_out.to(wide) * saved.difference).sum({1, 2});
  if (grad_difference.defined()) {
    both_branches_backward(backend, grad_out, grad_difference, qkv, saved, layout, shape, grad_qkv);
    return grad_gate;
  }
  // One near backward finishes the window rows and the near part of the full rows; the far backward
  // adds the far part of the full rows. Both see the row's final output and log-sum-exp.
  const at::Tensor logsumexp = at::where(saved.route, saved.logsumexp_full, saved.logsumexp_near);
  backend.backward(Band::kNear, grad_out, qkv, {saved.out, logsumexp}, {}, layout, shape, grad_qkv);
  backend.backward(Band::kFar, grad_out, qkv, {saved.out, saved.logsumexp_full}, saved.route,
                   layout, shape, grad_qkv);
  return grad_gate;
}

}  // namespace swiattn
