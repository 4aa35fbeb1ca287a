// The library backend of CPUs, and of float32 on a GPU: blocks of query rows against exactly the
// keys that they can see, with ATen's batched matrix products. Never holds S x S, and costs what
// its visible pairs cost.
#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "attention/backend.h"
#include "parallel/accumulation_type.h"
#include "parallel/gradient_target.h"

namespace swiattn {
namespace {

// Query rows a block: enough to keep a matrix product busy, few enough that the keys which only
// some of the rows see stay a small part.
constexpr int64_t kRows = 128;
// At most this many scores at once (64 MiB in float32).
constexpr int64_t kScores = int64_t{1} << 24;

// First and one past the last key, as indices in the document, that row `position` sees.
struct KeyRange {
  int64_t begin;
  int64_t end;
};

KeyRange key_range(Band band, int64_t position, int64_t window) {
  switch (band) {
    case Band::kNear:
      return {std::max<int64_t>(0, position - window + 1), position + 1};
    case Band::kFar:
      return {0, std::max<int64_t>(0, position - window + 1)};
    case Band::kFull:
      break;
  }
  return {0, position + 1};
}

// A block of rows of one document that see a key, and the keys that any of them sees.
struct Block {
  at::Tensor rows;        // [n] int64, token indices, ascending
  int64_t key_begin = 0;  // token indices
  int64_t key_end = 0;
  at::Tensor hidden;  // [n, keys] bool, undefined when every row sees every key
};

Block make_block(Band band, int64_t window, int64_t document_begin, const int64_t* rows,
                 int64_t count, c10::Device device) {
  const KeyRange first = key_range(band, rows[0] - document_begin, window);
  const KeyRange last = key_range(band, rows[count - 1] - document_begin, window);
  Block block;
  block.rows = at::tensor(at::IntArrayRef(rows, static_cast<size_t>(count)), at::kLong).to(device);
  block.key_begin = document_begin + first.begin;
  block.key_end = document_begin + last.end;
  if (first.begin == last.begin && first.end == last.end) return block;
  const at::Tensor key =
      at::arange(block.key_begin, block.key_end, block.rows.options()).unsqueeze(0);
  const at::Tensor distance = block.rows.unsqueeze(1) - key;
  switch (band) {
    case Band::kNear:
      block.hidden = (distance < 0).logical_or_(distance >= window);
      break;
    case Band::kFar:
      block.hidden = distance < window;
      break;
    case Band::kFull:
      block.hidden = distance < 0;
      break;
  }
  return block;
}

// Calls `visit(block)` for all rows marked in `rows` (undefined: all) that see a key of the band.
template <class Visit>
void for_each_block(Band band, const DocumentLayout& layout, const AttentionShape& shape,
                    const at::Tensor& rows, const Visit& visit) {
  const at::Tensor on_host = rows.defined() ? rows.cpu() : at::Tensor();
  const bool* marked = on_host.defined() ? on_host.const_data_ptr<bool>() : nullptr;
  std::vector<int64_t> chosen;
  for (int64_t document = 0; document < layout.documents(); ++document) {
    const int64_t begin = layout.starts[document];
    const int64_t end = layout.starts[document + 1];
    const int64_t first = band == Band::kFar ? begin + shape.window : begin;
    chosen.clear();
    for (int64_t t = first; t < end; ++t) {
      if (marked == nullptr || marked[t]) chosen.push_back(t);
    }
    const auto total = static_cast<int64_t>(chosen.size());
    for (int64_t i = 0; i < total;) {
      const int64_t last = chosen[std::min(i + kRows, total) - 1];
      const int64_t earliest =
          band == Band::kNear ? std::max(begin, chosen[i] - shape.window + 1) : begin;
      const int64_t keys = last - earliest + 1;
      const int64_t fitting = std::max<int64_t>(8, kScores / (keys * shape.heads));
      const int64_t count = std::min({kRows, fitting, total - i});
      visit(make_block(band, shape.window, begin, chosen.data() + i, count,
                       layout.position.device()));
      i += count;
    }
  }
}

// q, k and v by KV head in the accumulation type, so that a block's operands are plain slices.
struct HeadMajor {
  at::Tensor q;  // [Hkv, group, T, D]
  at::Tensor k;  // [Hkv, T, D]
  at::Tensor v;  // [Hkv, T, D]

  HeadMajor(const at::Tensor& qkv, const AttentionShape& shape)
      : q(by_group(shape.queries(qkv), shape)),
        k(by_head(shape.keys(qkv))),
        v(by_head(shape.values(qkv))) {}

  static at::Tensor by_head(const at::Tensor& x) {  // [T, H, D] → [H, T, D]
    return x.transpose(0, 1).to(accumulation_type(x.scalar_type())).contiguous();
  }
  static at::Tensor by_group(const at::Tensor& x, const AttentionShape& shape) {
    return by_head(x).unflatten(0, {shape.kv_heads, shape.heads / shape.kv_heads});
  }
};

// The block's rows of a [Hkv, group, T, D] tensor as [Hkv, group * n, D].
at::Tensor gather_rows(const at::Tensor& x, const Block& block) {
  return x.index_select(2, block.rows).flatten(1, 2);
}

// Scaled scores [Hkv, group * n, keys], -inf where hidden.
at::Tensor block_scores(const HeadMajor& heads, const at::Tensor& q, const Block& block,
                        const AttentionShape& shape) {
  const at::Tensor k = heads.k.narrow(1, block.key_begin, block.key_end - block.key_begin);
  at::Tensor scores = at::bmm(q, k.transpose(1, 2)).mul_(shape.scale);
  if (block.hidden.defined()) {
    scores.unflatten(1, {-1, block.hidden.size(0)})
        .masked_fill_(block.hidden, -std::numeric_limits<double>::infinity());
  }
  return scores;
}

class BlockwiseBackend final : public AttentionBackend {
 public:
  const char* name() const override { return "library (blockwise)"; }

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    const HeadMajor heads(qkv, shape);
    at::Tensor out = at::zeros_like(heads.q);
    at::Tensor logsumexp = at::full({shape.kv_heads, shape.heads / shape.kv_heads, layout.tokens},
                                    -std::numeric_limits<double>::infinity(), heads.q.options());
    for_each_block(band, layout, shape, {}, [&](const Block& block) {
      const int64_t count = block.rows.size(0);
      at::Tensor scores = block_scores(heads, gather_rows(heads.q, block), block, shape);
      const at::Tensor lse = at::logsumexp(scores, {-1}, true);
      const at::Tensor weights = scores.sub_(lse).exp_();
      const at::Tensor v = heads.v.narrow(1, block.key_begin, block.key_end - block.key_begin);
      out.index_copy_(2, block.rows, at::bmm(weights, v).unflatten(1, {-1, count}));
      logsumexp.index_copy_(2, block.rows, lse.squeeze(-1).unflatten(1, {-1, count}));
    });
    return {out.flatten(0, 1).transpose(0, 1).to(qkv.scalar_type()).contiguous(),
            logsumexp.flatten(0, 1)};
  }

  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientSum sum) const override {
    const HeadMajor heads(qkv, shape);
    const at::Tensor grad = HeadMajor::by_group(grad_out, shape);
    const at::Tensor delta =
        (grad * HeadMajor::by_group(final.out, shape)).sum(-1, true);  // [Hkv, group, T, 1]
    const at::Tensor logsumexp = final.logsumexp.view(delta.sizes());
    at::Tensor grad_q = at::zeros_like(heads.q);
    at::Tensor grad_k = at::zeros_like(heads.k);
    at::Tensor grad_v = at::zeros_like(heads.v);
    for_each_block(band, layout, shape, rows, [&](const Block& block) {
      const int64_t keys = block.key_end - block.key_begin;
      const at::Tensor q = gather_rows(heads.q, block);
      const at::Tensor grad_rows = gather_rows(grad, block);
      const at::Tensor k = heads.k.narrow(1, block.key_begin, keys);
      const at::Tensor v = heads.v.narrow(1, block.key_begin, keys);
      const at::Tensor weights =
          block_scores(heads, q, block, shape).sub_(gather_rows(logsumexp, block)).exp_();
      at::Tensor grad_scores = at::bmm(grad_rows, v.transpose(1, 2));
      grad_scores.sub_(gather_rows(delta, block)).mul_(weights).mul_(shape.scale);
      grad_q.index_copy_(2, block.rows,
                         at::bmm(grad_scores, k).unflatten(1, {-1, block.rows.size(0)}));
      grad_k.narrow(1, block.key_begin, keys).baddbmm_(grad_scores.transpose(1, 2), q);
      grad_v.narrow(1, block.key_begin, keys).baddbmm_(weights.transpose(1, 2), grad_rows);
    });
    GradientTarget{shape.queries(grad_qkv), sum}.put(grad_q.flatten(0, 1).transpose(0, 1));
    GradientTarget{shape.keys(grad_qkv), sum}.put(grad_k.transpose(0, 1));
    GradientTarget{shape.values(grad_qkv), sum}.put(grad_v.transpose(0, 1));
  }
};

}  // namespace

std::unique_ptr<AttentionBackend> make_blockwise_backend() {
  return std::make_unique<BlockwiseBackend>();
}

}  // namespace swiattn
