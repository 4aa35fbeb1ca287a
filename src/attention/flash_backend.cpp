// FlashAttention-2 for windows and packed documents, ATen's cuDNN where the documents of a
// micro-batch are equally long: the library backend of GPUs in bfloat16 where cuDNN's graph API
// (cudnn_backend.cpp) has no plan, and its second opinion. FAR is plain causal attention between
// the views q[w:] and k, v[:S-w], because j <= i - w is j <= i' with i' = i - w.
#include <ATen/ATen.h>
#include <ATen/Context.h>

#include <limits>

#include "attention/backend.h"

namespace swiattn {
namespace {

struct Qkv {
  at::Tensor q, k, v;
};

// cuDNN's graphs want lengths that are multiples of this.
constexpr int64_t kCudnnMultiple = 128;

// [T, H, D] → the dense view [B, H, length - from_start - from_end, D] of equally long documents.
at::Tensor dense(const at::Tensor& x, int64_t length, int64_t skip_start, int64_t skip_end) {
  return x.unflatten(0, {-1, length})
      .narrow(1, skip_start, length - skip_start - skip_end)
      .transpose(1, 2);
}

class FlashBackend final : public AttentionBackend {
 public:
  const char* name() const override { return "library (FlashAttention-2 and cuDNN)"; }

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    if (band == Band::kFar && layout.far_longest == 0) return no_far_key(qkv, shape);
    const Qkv in{shape.queries(qkv), shape.keys(qkv), shape.values(qkv)};
    if (band == Band::kNear && shape.window < layout.longest) {
      return flash_forward(in, layout.starts_device, layout.longest, shape, shape.window - 1);
    }
    if (band == Band::kFar) return far_forward(in, qkv, layout, shape);
    if (dense_causal(layout, 0)) return cudnn_forward(in, layout, shape, 0);
    return flash_forward(in, layout.starts_device, layout.longest, shape, {});
  }

  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientMode mode) const override {
    // A row is taken out of a call by a zero output gradient; its log-sum-exp is at least its true
    // one.
    const at::Tensor grad = rows.defined() ? grad_out * rows.view({-1, 1, 1}) : grad_out;
    if (band == Band::kFar) {
      if (mode == GradientMode::kWrite) grad_qkv.zero_();
      mode = GradientMode::kAdd;
      if (layout.far_longest == 0) return;
    }
    const Qkv in{shape.queries(qkv), shape.keys(qkv), shape.values(qkv)};
    const Qkv out{shape.queries(grad_qkv), shape.keys(grad_qkv), shape.values(grad_qkv)};
    if (band == Band::kNear && shape.window < layout.longest) {
      put(out,
          flash_backward(grad, in, final, layout.starts_device, layout.longest, shape,
                         shape.window - 1),
          mode);
    } else if (band == Band::kFar) {
      far_backward(grad, in, final, layout, shape, out);
    } else if (dense_causal(layout, 0) && !deterministic()) {
      cudnn_backward(grad, in, final, layout, shape, 0, out, mode);
    } else {
      put(out, flash_backward(grad, in, final, layout.starts_device, layout.longest, shape, {}),
          mode);
    }
  }

 private:
  static bool dense_causal(const DocumentLayout& layout, int64_t window) {
    const int64_t length = layout.uniform_length();
    return length > window && (length - window) % kCudnnMultiple == 0;
  }

  // cuDNN's backward adds with atomics, whatever ATen was asked for; FlashAttention obeys.
  static bool deterministic() { return at::globalContext().deterministicAlgorithms(); }

  static void put(const Qkv& into, const Qkv& grad, GradientMode mode) {
    put_gradient(into.q, grad.q, mode);
    put_gradient(into.k, grad.k, mode);
    put_gradient(into.v, grad.v, mode);
  }

  static Attended no_far_key(const at::Tensor& qkv, const AttentionShape& shape) {
    return {at::zeros({qkv.size(0), shape.heads, shape.head_dim}, qkv.options()),
            at::full({shape.heads, qkv.size(0)}, -std::numeric_limits<float>::infinity(),
                     qkv.options().dtype(at::kFloat))};
  }

  static Attended far_forward(const Qkv& in, const at::Tensor& qkv, const DocumentLayout& layout,
                              const AttentionShape& shape) {
    Attended all = no_far_key(qkv, shape);
    if (dense_causal(layout, shape.window)) {
      const int64_t length = layout.uniform_length();
      const Attended far = cudnn_forward(in, layout, shape, shape.window);
      dense(all.out, length, shape.window, 0).copy_(far.out);
      all.logsumexp.unflatten(1, {-1, length})
          .narrow(2, shape.window, length - shape.window)
          .copy_(far.logsumexp);
      return all;
    }
    const FarRows& rows = layout.far_rows();
    const Attended far =
        flash_forward(compact(in, rows), rows.starts, layout.far_longest, shape, {});
    all.out.index_copy_(0, rows.queries, far.out);
    all.logsumexp.index_copy_(1, rows.queries, far.logsumexp);
    return all;
  }

  static void far_backward(const at::Tensor& grad, const Qkv& in, const Attended& final,
                           const DocumentLayout& layout, const AttentionShape& shape,
                           const Qkv& out) {
    if (dense_causal(layout, shape.window) && !deterministic()) {
      cudnn_backward(grad, in, final, layout, shape, shape.window, out, GradientMode::kAdd);
      return;
    }
    const FarRows& rows = layout.far_rows();
    const auto pick = [&](const at::Tensor& x) { return x.index_select(0, rows.queries); };
    const Qkv far = flash_backward(pick(grad), compact(in, rows),
                                   {pick(final.out), final.logsumexp.index_select(1, rows.queries)},
                                   rows.starts, layout.far_longest, shape, {});
    out.q.index_add_(0, rows.queries, far.q);
    out.k.index_add_(0, rows.keys, far.k);
    out.v.index_add_(0, rows.keys, far.v);
  }

  static Qkv compact(const Qkv& in, const FarRows& rows) {
    return {in.q.index_select(0, rows.queries), in.k.index_select(0, rows.keys),
            in.v.index_select(0, rows.keys)};
  }

  // FlashAttention counts the keys to the left of the query's own: a window of w is w - 1.
  static Attended flash_forward(const Qkv& in, const at::Tensor& starts, int64_t longest,
                                const AttentionShape& shape, std::optional<int64_t> left) {
    auto [out, logsumexp, seed, offset, mask] = at::_flash_attention_forward(
        in.q, in.k, in.v, starts, starts, longest, longest, 0.0, true, false,
        std::optional<double>(shape.scale), left, left ? std::optional<int64_t>(0) : std::nullopt);
    return {out, logsumexp};
  }

  static Qkv flash_backward(const at::Tensor& grad, const Qkv& in, const Attended& final,
                            const at::Tensor& starts, int64_t longest, const AttentionShape& shape,
                            std::optional<int64_t> left) {
    const at::Tensor no_dropout = at::zeros({2}, in.q.options().dtype(at::kLong));
    auto [q, k, v] = at::_flash_attention_backward(
        grad, in.q, in.k, in.v, final.out, final.logsumexp, starts, starts, longest, longest, 0.0,
        true, no_dropout, no_dropout, std::optional<double>(shape.scale), left,
        left ? std::optional<int64_t>(0) : std::nullopt);
    return {q, k, v};
  }

  // Causal attention of rows [skip, S) of every document over its keys [0, S - skip).
  static Attended cudnn_forward(const Qkv& in, const DocumentLayout& layout,
                                const AttentionShape& shape, int64_t skip) {
    const int64_t length = layout.uniform_length();
    const auto result = at::_scaled_dot_product_cudnn_attention(
        dense(in.q, length, skip, 0), dense(in.k, length, 0, skip), dense(in.v, length, 0, skip),
        std::nullopt, true, 0.0, true, false, std::optional<double>(shape.scale));
    const at::Tensor& out = std::get<0>(result);  // [B, H, S - skip, D]
    const at::Tensor logsumexp =
        std::get<1>(result).squeeze(-1).transpose(0, 1);  // [H, B, S - skip]
    if (skip > 0) return {out, logsumexp};
    return {out.transpose(1, 2).flatten(0, 1), logsumexp.reshape({shape.heads, layout.tokens})};
  }

  static void cudnn_backward(const at::Tensor& grad, const Qkv& in, const Attended& final,
                             const DocumentLayout& layout, const AttentionShape& shape,
                             int64_t skip, const Qkv& out, GradientMode mode) {
    const int64_t length = layout.uniform_length();
    const at::Tensor logsumexp = final.logsumexp.unflatten(1, {-1, length})
                                     .narrow(2, skip, length - skip)
                                     .transpose(0, 1)
                                     .contiguous()
                                     .unsqueeze(-1);
    const at::Tensor no_dropout = at::zeros({}, in.q.options().dtype(at::kLong));
    auto [q, k, v] = at::_scaled_dot_product_cudnn_attention_backward(
        dense(grad, length, skip, 0), dense(in.q, length, skip, 0), dense(in.k, length, 0, skip),
        dense(in.v, length, 0, skip), dense(final.out, length, skip, 0), logsumexp, no_dropout,
        no_dropout, {}, {}, {}, length - skip, length - skip, 0.0, true,
        std::optional<double>(shape.scale));
    put_gradient(dense(out.q, length, skip, 0), q, mode);
    put_gradient(dense(out.k, length, 0, skip), k, mode);
    put_gradient(dense(out.v, length, 0, skip), v, mode);
  }
};

}  // namespace

std::unique_ptr<AttentionBackend> make_flash_backend() { return std::make_unique<FlashBackend>(); }

}  // namespace swiattn
