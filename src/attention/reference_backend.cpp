// The reference backend: the definition, written out with dense masks. O(T^2) memory, any device,
// float64-capable. What every other backend is judged by.
#include <ATen/ATen.h>

#include <limits>

#include "attention/backend.h"
#include "parallel/accumulation_type.h"
#include "parallel/gradient_target.h"

namespace swiattn {
namespace {

// [T, T] bool: may query i look at key j within this band?
at::Tensor visible(Band band, const DocumentLayout& layout, int64_t window) {
  const at::Tensor index = at::arange(layout.tokens, layout.position.options());
  const at::Tensor start = index - layout.position;  // of the token's document
  const at::Tensor same_document = start.unsqueeze(1) == start.unsqueeze(0);
  const at::Tensor distance = index.unsqueeze(1) - index.unsqueeze(0);  // i - j
  at::Tensor mask = same_document.logical_and(distance >= 0);
  if (band == Band::kNear) mask = mask.logical_and(distance < window);
  if (band == Band::kFar) mask = mask.logical_and(distance >= window);
  return mask;
}

// [T, H, D] → [Hq, T, D] in the accumulation type, KV heads repeated for their group of queries.
at::Tensor head_major(const at::Tensor& x, int64_t heads) {
  return x.transpose(0, 1)
      .to(accumulation_type(x.scalar_type()))
      .repeat_interleave(heads / x.size(1), 0);
}

// The reverse for gradients: sums over each group. [Hq, T, D] → [T, Hkv, D].
at::Tensor token_major(const at::Tensor& grad, int64_t kv_heads) {
  return grad.unflatten(0, {kv_heads, -1}).sum(1).transpose(0, 1);
}

class ReferenceBackend final : public AttentionBackend {
 public:
  const char* name() const override { return "reference"; }

  bool switch_follows_positions(const AttentionShape&) const override { return true; }

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    const at::Tensor scores = masked_scores(band, qkv, layout, shape);
    Attended result;
    result.logsumexp = at::logsumexp(scores, {-1}).contiguous();
    const at::Tensor weights = weights_of(scores, result.logsumexp);
    const at::Tensor out = at::matmul(weights, head_major(shape.values(qkv), shape.heads));
    result.out = out.transpose(0, 1).to(qkv.scalar_type()).contiguous();
    return result;
  }

  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientSum sum) const override {
    at::Tensor grad = head_major(grad_out, shape.heads);  // [Hq, T, D]
    if (rows.defined()) grad = grad * rows.unsqueeze(-1);
    at::Tensor weights = weights_of(masked_scores(band, qkv, layout, shape), final.logsumexp);
    if (rows.defined()) weights = weights.masked_fill(rows.logical_not().unsqueeze(-1), 0.0);
    const at::Tensor delta = (grad * head_major(final.out, shape.heads)).sum(-1, true);
    const at::Tensor grad_weights =
        at::matmul(grad, head_major(shape.values(qkv), shape.heads).transpose(1, 2));
    const at::Tensor grad_scores = weights * (grad_weights - delta) * shape.scale;
    const at::Tensor grad_q = at::matmul(grad_scores, head_major(shape.keys(qkv), shape.heads));
    const at::Tensor grad_k =
        at::matmul(grad_scores.transpose(1, 2), head_major(shape.queries(qkv), shape.heads));
    const at::Tensor grad_v = at::matmul(weights.transpose(1, 2), grad);
    GradientTarget{shape.queries(grad_qkv), sum}.put(grad_q.transpose(0, 1));
    GradientTarget{shape.keys(grad_qkv), sum}.put(token_major(grad_k, shape.kv_heads));
    GradientTarget{shape.values(grad_qkv), sum}.put(token_major(grad_v, shape.kv_heads));
  }

 private:
  static at::Tensor masked_scores(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                                  const AttentionShape& shape) {
    const at::Tensor q = head_major(shape.queries(qkv), shape.heads);
    const at::Tensor k = head_major(shape.keys(qkv), shape.heads);
    const at::Tensor hidden = visible(band, layout, shape.window).logical_not();
    return (at::matmul(q, k.transpose(1, 2)) * shape.scale)
        .masked_fill(hidden, -std::numeric_limits<double>::infinity());
  }

  // exp(scores - logsumexp), 0 in a row that sees no key (whose log-sum-exp is -inf).
  static at::Tensor weights_of(const at::Tensor& scores, const at::Tensor& logsumexp) {
    const at::Tensor finite = logsumexp.isfinite().unsqueeze(-1);
    return at::where(finite, (scores - logsumexp.unsqueeze(-1)).exp(),
                     at::zeros({}, scores.options()));
  }
};

}  // namespace

std::unique_ptr<AttentionBackend> make_reference_backend() {
  return std::make_unique<ReferenceBackend>();
}

}  // namespace swiattn
