// FlashAttention-2: the library backend of GPUs in bfloat16 where cuDNN's graph API
// (cudnn_backend.cpp) has no plan, and its second opinion. FAR is plain causal attention between
// the rows that have far keys and those keys, because j <= i - w is j <= i' with i' = i - w.
#include <ATen/ATen.h>

#include <limits>
#include <optional>

#include "attention/backend.h"
#include "parallel/gradient_target.h"

namespace swiattn {
namespace {

struct Qkv {
  at::Tensor q, k, v;
};

class FlashBackend final : public AttentionBackend {
 public:
  const char* name() const override { return "library (FlashAttention-2)"; }

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    if (band == Band::kFar && layout.far_longest == 0) return no_far_key(qkv, shape);
    const Qkv in{shape.queries(qkv), shape.keys(qkv), shape.values(qkv)};
    if (band == Band::kFar) return far_forward(in, qkv, layout, shape);
    return flash_forward(in, layout.starts_device, layout.longest, shape,
                         keys_to_the_left(band, layout, shape));
  }

  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientSum sum) const override {
    // A row is taken out of a call by a zero output gradient; its log-sum-exp is at least its true
    // one.
    const at::Tensor grad = rows.defined() ? grad_out * rows.view({-1, 1, 1}) : grad_out;
    const Qkv in{shape.queries(qkv), shape.keys(qkv), shape.values(qkv)};
    const Qkv out{shape.queries(grad_qkv), shape.keys(grad_qkv), shape.values(grad_qkv)};
    if (band == Band::kFar) {
      if (sum == GradientSum::kWrite) grad_qkv.zero_();
      if (layout.far_longest > 0) far_backward(grad, in, final, layout, shape, out);
      return;
    }
    const Qkv gradient = flash_backward(grad, in, final, layout.starts_device, layout.longest,
                                        shape, keys_to_the_left(band, layout, shape));
    GradientTarget{out.q, sum}.put(gradient.q);
    GradientTarget{out.k, sum}.put(gradient.k);
    GradientTarget{out.v, sum}.put(gradient.v);
  }

 private:
  // That FlashAttention lets a query see besides its own: a window of w is w - 1.
  static std::optional<int64_t> keys_to_the_left(Band band, const DocumentLayout& layout,
                                                 const AttentionShape& shape) {
    if (band == Band::kNear && shape.window < layout.longest) return shape.window - 1;
    return std::nullopt;
  }

  static Attended no_far_key(const at::Tensor& qkv, const AttentionShape& shape) {
    return {at::zeros({qkv.size(0), shape.heads, shape.head_dim}, qkv.options()),
            at::full({shape.heads, qkv.size(0)}, -std::numeric_limits<float>::infinity(),
                     qkv.options().dtype(at::kFloat))};
  }

  static Attended far_forward(const Qkv& in, const at::Tensor& qkv, const DocumentLayout& layout,
                              const AttentionShape& shape) {
    Attended all = no_far_key(qkv, shape);
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
};

}  // namespace

std::unique_ptr<AttentionBackend> make_flash_backend() { return std::make_unique<FlashBackend>(); }

}  // namespace swiattn
