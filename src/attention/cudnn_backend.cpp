// The library backend of GPUs in bfloat16: cuDNN's graph API, which writes outputs and gradients
// where they belong, without copies. What it has no plan for, and backwards that have to be
// deterministic, go to FlashAttention-2, and head widths that this has not either to plain ATen.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>

#include <limits>
#include <optional>
#include <utility>

#include "attention/backend.h"
#include "attention/cudnn_attention.h"

namespace swiattn {
namespace {

constexpr int64_t kWidestFlashHead = 256;

// The rows and keys that a band's call has of documents with a common length, or none: then the
// documents are ragged.
struct Dense {
  int64_t length = 0;  // of a document
  int64_t skip = 0;    // FAR: the first w rows and the last w keys do not take part

  // [T, H, D] → [B, H, length - skip, D]
  at::Tensor rows(const at::Tensor& x) const { return part(x, skip); }
  at::Tensor keys(const at::Tensor& x) const { return part(x, 0); }
  // [H, T] → [B, H, length - skip]
  at::Tensor logsumexp(const at::Tensor& x) const {
    return x.unflatten(1, {-1, length}).narrow(2, skip, length - skip).transpose(0, 1);
  }

 private:
  at::Tensor part(const at::Tensor& x, int64_t begin) const {
    return x.unflatten(0, {-1, length}).narrow(1, begin, length - skip).transpose(1, 2);
  }
};

std::optional<Dense> dense_problem(Band band, const DocumentLayout& layout,
                                   const AttentionShape& shape) {
  const Dense dense{layout.uniform_length(), band == Band::kFar ? shape.window : 0};
  constexpr int64_t kMultiple = CudnnAttention::kDenseMultiple;
  const bool multiples = dense.length % kMultiple == 0 && dense.skip % kMultiple == 0;
  if (dense.length <= dense.skip || !multiples) return {};
  return dense;
}

class CudnnBackend final : public AttentionBackend {
 public:
  explicit CudnnBackend(AttentionNotice notice) : notice_(std::move(notice)) {}

  const char* name() const override { return "library (cuDNN and FlashAttention-2)"; }

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    const bool nothing = band == Band::kFar && layout.far_longest == 0;
    if (!nothing) {
      if (const std::optional<Attended> attended = attend(band, qkv, layout, shape)) {
        return *attended;
      }
      tell_refusal(shape);
    }
    return fallback(shape).forward(band, qkv, layout, shape);
  }

  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientSum sum) const override {
    const bool nothing = band == Band::kFar && layout.far_longest == 0;
    if (!nothing && !at::globalContext().deterministicAlgorithms()) {
      if (attend_backward(band, grad_out, qkv, final, rows, layout, shape, grad_qkv, sum)) return;
      tell_refusal(shape);
    }
    fallback(shape).backward(band, grad_out, qkv, final, rows, layout, shape, grad_qkv, sum);
  }

 private:
  // Nothing where cuDNN has no plan.
  std::optional<Attended> attend(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                                 const AttentionShape& shape) const {
    const Attended attended{
        at::empty({layout.tokens, shape.heads, shape.head_dim}, qkv.options()),
        at::empty({shape.heads, layout.tokens}, qkv.options().dtype(at::kFloat))};
    const std::optional<Dense> dense = dense_problem(band, layout, shape);
    const CudnnAttentionCall call = make_call(band, qkv, attended, layout, shape, dense);
    if (!cudnn_.prepare_forward(call)) return std::nullopt;
    if (dense && dense->skip > 0) empty_first_rows(attended, *dense);
    cudnn_.forward(call);
    return attended;
  }

  // False, and nothing is done, where cuDNN has no plan.
  bool attend_backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv,
                       const Attended& final, const at::Tensor& rows, const DocumentLayout& layout,
                       const AttentionShape& shape, const at::Tensor& grad_qkv,
                       GradientSum sum) const {
    // A row is taken out by a zero output gradient; its log-sum-exp is at least its true one.
    const at::Tensor grad = rows.defined() ? grad_out * rows.view({-1, 1, 1}) : grad_out;
    const std::optional<Dense> dense = dense_problem(band, layout, shape);
    const CudnnAttentionCall call = make_call(band, qkv, final, layout, shape, dense);
    // Views of a dense far problem leave rows out, which a gradient that is written has to cover.
    const bool partial = dense && dense->skip > 0;
    const bool direct = sum == GradientSum::kWrite && !partial;
    const at::Tensor into = direct ? grad_qkv : at::empty_like(qkv);
    const CudnnAttentionGradients gradients = make_gradients(grad, into, shape, dense);
    if (!cudnn_.prepare_backward(call, gradients)) return false;
    cudnn_.backward(call, gradients);
    if (direct) return true;
    if (sum == GradientSum::kWrite) grad_qkv.zero_();
    const CudnnAttentionGradients total = make_gradients(grad, grad_qkv, shape, dense);
    total.q.add_(gradients.q);
    total.k.add_(gradients.k);
    total.v.add_(gradients.v);
    return true;
  }

  static bool flash_serves(const AttentionShape& shape) {
    return shape.head_dim % 8 == 0 && shape.head_dim <= kWidestFlashHead;
  }
  const AttentionBackend& fallback(const AttentionShape& shape) const {
    return flash_serves(shape) ? *flash_ : *blockwise_;
  }

  void tell_refusal(const AttentionShape& shape) const {
    tell_once(notice_, fmt::format("cuDNN does not serve all of this model's attention ({}); {} "
                                   "does instead, which takes longer.",
                                   cudnn_.refusal(),
                                   flash_serves(shape) ? "FlashAttention-2" : "plain ATen"));
  }

  static CudnnAttentionCall make_call(Band band, const at::Tensor& qkv, const Attended& attended,
                                      const DocumentLayout& layout, const AttentionShape& shape,
                                      const std::optional<Dense>& dense) {
    CudnnAttentionCall call;
    call.scale = shape.scale;
    call.window = band == Band::kNear && shape.window < layout.longest ? shape.window : 0;
    call.q = shape.queries(qkv);
    call.k = shape.keys(qkv);
    call.v = shape.values(qkv);
    call.out = attended.out;
    call.logsumexp = attended.logsumexp;
    if (!dense) {
      call.documents = band == Band::kFar ? &layout.far_documents : &layout.documents_packed;
      return call;
    }
    call.q = dense->rows(call.q);
    call.k = dense->keys(call.k);
    call.v = dense->keys(call.v);
    call.out = dense->rows(call.out);
    call.logsumexp = dense->logsumexp(call.logsumexp);
    return call;
  }

  static CudnnAttentionGradients make_gradients(const at::Tensor& grad_out,
                                                const at::Tensor& grad_qkv,
                                                const AttentionShape& shape,
                                                const std::optional<Dense>& dense) {
    CudnnAttentionGradients gradients{grad_out, shape.queries(grad_qkv), shape.keys(grad_qkv),
                                      shape.values(grad_qkv)};
    if (!dense) return gradients;
    return {dense->rows(gradients.out), dense->rows(gradients.q), dense->keys(gradients.k),
            dense->keys(gradients.v)};
  }

  // The rows that a dense far problem leaves out.
  static void empty_first_rows(const Attended& attended, const Dense& dense) {
    attended.out.unflatten(0, {-1, dense.length}).narrow(1, 0, dense.skip).zero_();
    attended.logsumexp.unflatten(1, {-1, dense.length})
        .narrow(2, 0, dense.skip)
        .fill_(-std::numeric_limits<float>::infinity());
  }

  const std::unique_ptr<AttentionBackend> flash_ = make_flash_backend();
  const std::unique_ptr<AttentionBackend> blockwise_ = make_blockwise_backend();
  mutable CudnnAttention cudnn_;  // its plans; a backend serves one thread
  mutable AttentionNotice notice_;
};

}  // namespace

std::unique_ptr<AttentionBackend> make_cudnn_backend(AttentionNotice notice) {
  return std::make_unique<CudnnBackend>(std::move(notice));
}

}  // namespace swiattn
