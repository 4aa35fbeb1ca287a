#include "attention/backend.h"

#include <ATen/ATen.h>

#include <utility>

#include "base/error.h"
#include "parallel/accumulation_type.h"

namespace swiattn {

at::Tensor AttentionShape::queries(const at::Tensor& qkv) const {
  return qkv.narrow(1, 0, heads * head_dim).unflatten(1, {heads, head_dim});
}

at::Tensor AttentionShape::keys(const at::Tensor& qkv) const {
  return qkv.narrow(1, heads * head_dim, kv_heads * head_dim).unflatten(1, {kv_heads, head_dim});
}

at::Tensor AttentionShape::queries_and_keys(const at::Tensor& qkv) const {
  return qkv.narrow(1, 0, (heads + kv_heads) * head_dim).unflatten(1, {heads + kv_heads, head_dim});
}

at::Tensor AttentionShape::values(const at::Tensor& qkv) const {
  return qkv.narrow(1, (heads + kv_heads) * head_dim, kv_heads * head_dim)
      .unflatten(1, {kv_heads, head_dim});
}

// Merge by log-sum-exp: o_full - o_near = p_far (o_far - o_near), p_far the far keys' share of the
// softmax. Formed as this product the difference keeps its precision where little mass is far, and
// is exactly zero in rows without a far key.
SwitchSaved AttentionBackend::merge(Attended near, Attended far, const at::Tensor& route,
                                    const DocumentLayout&, const AttentionShape& shape,
                                    DisagreementReduction reduction) const {
  const at::ScalarType type = near.out.scalar_type();
  const at::ScalarType wide = accumulation_type(type);
  SwitchSaved saved;
  saved.route = route;
  const at::Tensor logsumexp_full = at::logaddexp(near.logsumexp, far.logsumexp);
  saved.logsumexp = at::where(route, logsumexp_full, near.logsumexp);
  const at::Tensor far_share =
      (far.logsumexp - logsumexp_full).exp().t().unsqueeze(-1);  // [T, Hq, 1]
  const at::Tensor near_out = near.out.to(wide);
  const at::Tensor difference = far_share * (far.out.to(wide) - near_out);
  saved.out =
      at::where(route.view({-1, 1, 1}), near_out + difference, near_out).to(type).contiguous();
  saved.disagreement = difference.square().sum({1, 2});
  if (reduction == DisagreementReduction::kMean) {
    saved.disagreement.div_(static_cast<double>(shape.heads * shape.head_dim));
  }
  saved.difference = difference.to(type).contiguous();
  return saved;
}

SwitchSaved AttentionBackend::switch_forward(const at::Tensor& qkv, const at::Tensor& route,
                                             const DocumentLayout& layout,
                                             const AttentionShape& shape,
                                             DisagreementReduction reduction) const {
  return merge(forward(Band::kNear, qkv, layout, shape), forward(Band::kFar, qkv, layout, shape),
               route, layout, shape, reduction);
}

at::Tensor AttentionBackend::gate_gradient(const at::Tensor& grad_out, const SwitchSaved& saved,
                                           const DocumentLayout&, const AttentionShape&) const {
  const auto wide = accumulation_type(grad_out.scalar_type());
  at::Tensor gradient = (grad_out.to(wide) * saved.difference).sum({1, 2});
  if (saved.both.defined()) gradient.masked_fill_(saved.both.logical_not(), 0.0);
  return gradient;
}

SwitchSaved AttentionBackend::attend_sampled(const at::Tensor& qkv, const at::Tensor& route,
                                             const at::Tensor& both, const DocumentLayout& layout,
                                             const AttentionShape& shape,
                                             DisagreementReduction reduction) const {
  SwitchSaved saved = switch_forward(qkv, route, layout, shape, reduction);
  saved.disagreement.masked_fill_(both.logical_not(), 0.0);
  saved.both = both;
  return saved;
}

at::Tensor AttentionBackend::attend_routed(const at::Tensor& qkv, const at::Tensor& route,
                                           const DocumentLayout& layout,
                                           const AttentionShape& shape) const {
  return merge(forward(Band::kNear, qkv, layout, shape), forward(Band::kFar, qkv, layout, shape),
               route, layout, shape, DisagreementReduction::kMean)
      .out;
}

// One near backward finishes the window rows and the near part of the full rows; the far backward
// adds the far part of the full rows. Both see the row's final output and log-sum-exp; that of a
// window row may be less than its true one over the far keys, whence a larger one there.
at::Tensor AttentionBackend::switch_backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                                             const SwitchSaved& saved, const DocumentLayout& layout,
                                             const AttentionShape& shape,
                                             const at::Tensor& grad_qkv) const {
  constexpr double kMoreThanAny = 1e30;
  const at::Tensor of_full_rows =
      saved.logsumexp.masked_fill(saved.route.logical_not(), kMoreThanAny);
  backward(Band::kNear, grad_out, qkv, {saved.out, saved.logsumexp}, {}, layout, shape, grad_qkv,
           GradientSum::kWrite);
  backward(Band::kFar, grad_out, qkv, {saved.out, of_full_rows}, saved.route, layout, shape,
           grad_qkv, GradientSum::kAdd);
  return gate_gradient(grad_out, saved, layout, shape);
}

void tell_once(AttentionNotice& notice, const std::string& sentence) {
  if (const AttentionNotice tell = std::exchange(notice, {})) tell(sentence);
}

namespace {

bool is_gpu_in_bfloat16(c10::Device device, at::ScalarType type) {
  return device.is_cuda() && type == at::kBFloat16;
}

std::unique_ptr<AttentionBackend> make_library_backend(c10::Device device, at::ScalarType type,
                                                       const AttentionNotice& notice) {
  return is_gpu_in_bfloat16(device, type) ? make_cudnn_backend(notice) : make_blockwise_backend();
}

}  // namespace

std::unique_ptr<AttentionBackend> make_attention_backend(const std::string& name,
                                                         c10::Device device, at::ScalarType type,
                                                         const AttentionNotice& notice) {
  if (name == "reference") return make_reference_backend();
  if (name == "library") return make_library_backend(device, type, notice);
#ifdef SWIATTN_CUDA
  if (is_gpu_in_bfloat16(device, type) && (name == "auto" || name == "fused")) {
    return make_fused_backend(make_library_backend(device, type, notice), notice);
  }
#endif
  if (name == "auto") return make_library_backend(device, type, notice);
  if (name == "fused") {
    fail(ExitCode::kConfiguration,
         "attention.backend: 'fused' needs a GPU and model.compute: bfloat16; use auto, library or "
         "reference.");
  }
  fail(ExitCode::kConfiguration,
       "attention.backend: '{}' is not available in this version; use auto, fused, library or "
       "reference.",
       name);
}

}  // namespace swiattn
