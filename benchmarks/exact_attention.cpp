#include "benchmarks/exact_attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

namespace swiattn {
namespace {

constexpr int64_t kScores = int64_t{1} << 28;  // at once, 2 GiB in float64

// [n, H, D] → [Hq, n, D] float64, KV heads repeated for the query heads that share them.
at::Tensor head_major(const at::Tensor& x, int64_t heads) {
  return x.to(at::kDouble).repeat_interleave(heads / x.size(1), 1).transpose(0, 1);
}

// [Hq, n, D] → [n, Hkv, D], summed over the query heads that share a KV head.
at::Tensor token_major(const at::Tensor& x, int64_t kv_heads) {
  return x.unflatten(0, {kv_heads, -1}).sum(1).transpose(0, 1);
}

// One document: rows [begin, end) of everything.
void attend(int64_t begin, int64_t end, const at::Tensor& qkv, const at::Tensor& grad_out,
            const at::Tensor& route, const AttentionShape& shape, ExactAttention& exact) {
  const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, end - begin); };
  const at::Tensor q = head_major(part(shape.queries(qkv)), shape.heads);
  const at::Tensor k = head_major(part(shape.keys(qkv)), shape.heads);
  const at::Tensor v = head_major(part(shape.values(qkv)), shape.heads);
  const at::Tensor grad = head_major(part(grad_out), shape.heads);
  const at::Tensor full = part(route);
  const at::Tensor grad_k = at::zeros_like(k);
  const at::Tensor grad_v = at::zeros_like(v);
  const at::Tensor key = at::arange(end - begin, full.options().dtype(at::kLong));
  const int64_t rows = std::max<int64_t>(1, kScores / (shape.heads * (end - begin)));
  for (int64_t first = 0; first < end - begin; first += rows) {
    const int64_t count = std::min(rows, end - begin - first);
    const auto chunk = [&](const at::Tensor& x) { return x.narrow(1, first, count); };
    const at::Tensor row = key.narrow(0, first, count).unsqueeze(1);
    const at::Tensor near = row - key < shape.window;
    const at::Tensor visible =
        (key <= row).logical_and(near.logical_or(full.narrow(0, first, count).unsqueeze(1)));
    const at::Tensor scores =
        (at::matmul(chunk(q), k.transpose(1, 2)) * shape.scale)
            .masked_fill_(visible.logical_not(), -std::numeric_limits<double>::infinity());
    const at::Tensor weights = at::softmax(scores, -1);
    const at::Tensor out = at::matmul(weights, v);
    const at::Tensor delta = (chunk(grad) * out).sum(-1, true);
    const at::Tensor grad_scores =
        at::matmul(chunk(grad), v.transpose(1, 2)).sub_(delta).mul_(weights).mul_(shape.scale);
    part(exact.out).narrow(0, first, count).copy_(out.transpose(0, 1));
    part(shape.queries(exact.grad_qkv))
        .narrow(0, first, count)
        .copy_(at::matmul(grad_scores, k).transpose(0, 1));
    grad_k.baddbmm_(grad_scores.transpose(1, 2), chunk(q));
    grad_v.baddbmm_(weights.transpose(1, 2), chunk(grad));
  }
  part(shape.keys(exact.grad_qkv)).copy_(token_major(grad_k, shape.kv_heads));
  part(shape.values(exact.grad_qkv)).copy_(token_major(grad_v, shape.kv_heads));
}

}  // namespace

ExactAttention exact_attention(const at::Tensor& qkv, const at::Tensor& grad_out,
                               const at::Tensor& route, const DocumentLayout& layout,
                               const AttentionShape& shape) {
  const auto wide = qkv.options().dtype(at::kDouble);
  ExactAttention exact{at::empty(grad_out.sizes(), wide), at::empty(qkv.sizes(), wide)};
  for (size_t i = 0; i + 1 < layout.starts.size(); ++i) {
    attend(layout.starts[i], layout.starts[i + 1], qkv, grad_out, route, shape, exact);
  }
  return exact;
}

}  // namespace swiattn
