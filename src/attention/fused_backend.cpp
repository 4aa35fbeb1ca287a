// The fused backend: our own kernels for tokens that have a choice, forward and backward, and
// between the library's calls; the library where all rows attend alike or nothing of ours fits.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>

#include <utility>

#include "attention/attention_kernels.h"
#include "attention/backend.h"
#include "attention/listed_attention.h"
#include "parallel/gpu_stream.h"

namespace swiattn {
namespace {

constexpr int64_t kVector = 8;  // elements that the kernels of whole rows read at once

class FusedBackend final : public AttentionBackend {
 public:
  FusedBackend(std::unique_ptr<AttentionBackend> library, AttentionNotice notice)
      : library_(std::move(library)), notice_(std::move(notice)) {}

  const char* name() const override { return "fused"; }

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    return library_->forward(band, qkv, layout, shape);
  }

  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientSum sum) const override {
    const bool ours = band != Band::kFar && !rows.defined() && sum == GradientSum::kWrite &&
                      at::globalContext().deterministicAlgorithms();
    if (ours && covers(qkv, shape)) {
      listed_backward(band, grad_out, qkv, final, layout, shape, grad_qkv);
    } else {
      library_->backward(band, grad_out, qkv, final, rows, layout, shape, grad_qkv, sum);
    }
  }

  at::Tensor attend_routed(const at::Tensor& qkv, const at::Tensor& route,
                           const DocumentLayout& layout,
                           const AttentionShape& shape) const override {
    if (!covers(qkv, shape)) {
      return AttentionBackend::attend_routed(qkv, route, layout, shape);
    }
    const Attended attended = forward(Band::kNear, qkv, layout, shape);
    listed_far_forward(qkv, route, layout, shape, attended);
    return attended.out;
  }

  SwitchSaved switch_forward(const at::Tensor& qkv, const at::Tensor& route,
                             const DocumentLayout& layout, const AttentionShape& shape,
                             DisagreementReduction reduction) const override {
    if (!covers(qkv, shape) || !listed_switch_forward_covers(shape)) {
      return AttentionBackend::switch_forward(qkv, route, layout, shape, reduction);
    }
    return listed_switch_forward(qkv, route, layout, shape, reduction);
  }

  // The library, whose plans are for documents of certain sizes, then has no part in it.
  bool switch_follows_positions(const AttentionShape& shape) const override {
    return listed_switch_forward_covers(shape);
  }

  SwitchSaved attend_sampled(const at::Tensor& qkv, const at::Tensor& route, const at::Tensor& both,
                             const DocumentLayout& layout, const AttentionShape& shape,
                             DisagreementReduction reduction) const override {
    if (!covers(qkv, shape)) {
      return AttentionBackend::attend_sampled(qkv, route, both, layout, shape, reduction);
    }
    return listed_attend_sampled(qkv, forward(Band::kNear, qkv, layout, shape), route, both, layout,
                                 shape, reduction);
  }

  at::Tensor switch_backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                             const SwitchSaved& saved, const DocumentLayout& layout,
                             const AttentionShape& shape,
                             const at::Tensor& grad_qkv) const override {
    if (!covers(qkv, shape)) {
      return AttentionBackend::switch_backward(grad_out, qkv, saved, layout, shape, grad_qkv);
    }
    return listed_switch_backward(grad_out, qkv, saved, layout, shape, grad_qkv);
  }

  // In place: the branch taken replaces the near one, the difference the far one's output.
  SwitchSaved merge(Attended near, Attended far, const at::Tensor& route,
                    const DocumentLayout& layout, const AttentionShape& shape,
                    DisagreementReduction reduction) const override {
    if (shape.head_dim % kVector != 0) {
      return AttentionBackend::merge(std::move(near), std::move(far), route, layout, shape,
                                     reduction);
    }
    SwitchSaved saved;
    saved.disagreement = at::empty({layout.tokens}, near.logsumexp.options());
    const double count = static_cast<double>(shape.heads * shape.head_dim);
    gpu::merge_branches(
        {near.out.const_data_ptr(), far.out.const_data_ptr(),
         near.logsumexp.const_data_ptr<float>(), far.logsumexp.const_data_ptr<float>(),
         route.const_data_ptr<bool>(), layout.position.const_data_ptr<int64_t>(),
         near.out.mutable_data_ptr(), far.out.mutable_data_ptr(),
         near.logsumexp.mutable_data_ptr<float>(), saved.disagreement.mutable_data_ptr<float>(),
         layout.tokens, shape.heads, shape.head_dim, shape.window,
         static_cast<float>(reduction == DisagreementReduction::kMean ? 1.0 / count : 1.0)},
        current_stream());
    saved.route = route;
    saved.out = std::move(near.out);
    saved.difference = std::move(far.out);
    saved.logsumexp = std::move(near.logsumexp);
    return saved;
  }

  at::Tensor gate_gradient(const at::Tensor& grad_out, const SwitchSaved& saved,
                           const DocumentLayout& layout,
                           const AttentionShape& shape) const override {
    if (shape.head_dim % kVector != 0) {
      return AttentionBackend::gate_gradient(grad_out, saved, layout, shape);
    }
    at::Tensor gradient = at::empty_like(saved.disagreement);
    gpu::gate_gradient(
        {grad_out.const_data_ptr(), saved.difference.const_data_ptr(),
         layout.position.const_data_ptr<int64_t>(), gradient.mutable_data_ptr<float>(),
         layout.tokens, shape.heads, shape.head_dim, shape.window,
         saved.both.defined() ? saved.both.const_data_ptr<bool>() : nullptr},
        current_stream());
    return gradient;
  }

 private:
  bool covers(const at::Tensor& qkv, const AttentionShape& shape) const {
    if (listed_attention_covers(qkv, shape)) return true;
    tell_once(notice_, fmt::format("Attention's own kernels are for heads of 64 and 128 and less "
                                   "than 2^31 tokens, not for {} tokens with heads of {}: the "
                                   "library serves instead, which takes longer.",
                                   qkv.size(0), shape.head_dim));
    return false;
  }

  std::unique_ptr<AttentionBackend> library_;
  mutable AttentionNotice notice_;  // a backend serves one thread
};

}  // namespace

std::unique_ptr<AttentionBackend> make_fused_backend(std::unique_ptr<AttentionBackend> library,
                                                     AttentionNotice notice) {
  return std::make_unique<FusedBackend>(std::move(library), std::move(notice));
}

}  // namespace swiattn
