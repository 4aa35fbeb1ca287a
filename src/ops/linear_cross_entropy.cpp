#include "ops/linear_cross_entropy.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/linear.h"
#include "parallel/accumulation_type.h"

namespace swiattn {

CrossEntropyRows reference_cross_entropy_rows(int64_t vocab_size) {
  constexpr int64_t kLogits = int64_t{1} << 24;
  const int64_t rows = std::max<int64_t>(16, kLogits / vocab_size);
  return {rows, rows};
}

// Each product for dL/dW reads and writes the whole float32 [V, d]. On an H100 that takes as long
// as the product of about 1,000 rows whatever V and d are, so that several chunks of logits share
// one.
CrossEntropyRows fused_cross_entropy_rows(int64_t vocab_size) {
  constexpr int64_t kLogits = int64_t{1} << 26, kGradients = int64_t{1} << 28;
  constexpr int64_t kTile = 128, kFewest = 2048;
  const int64_t logits = std::max(kTile, kLogits / vocab_size / kTile * kTile);
  const int64_t gradients = std::max(kFewest, kGradients / vocab_size);
  return {logits, std::max(logits, gradients / logits * logits)};
}

namespace reference {
namespace {

struct Chunk {
  at::Tensor logits;     // [n, V] accumulation type
  at::Tensor logsumexp;  // [n, 1]
  at::Tensor counted;    // [n] bool
  at::Tensor index;      // [n, 1] int64, 0 where ignored
  at::Tensor nll;        // [n]
};

Chunk evaluate(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  Chunk chunk;
  chunk.logits = at::linear(hidden, weight).to(accumulation_type(hidden.scalar_type()));
  chunk.logsumexp = at::logsumexp(chunk.logits, {1}, true);
  chunk.counted = targets >= 0;
  chunk.index = targets.clamp_min(0).unsqueeze(1);
  chunk.nll = (chunk.logsumexp - chunk.logits.gather(1, chunk.index)).squeeze(1) * chunk.counted;
  return chunk;
}

}  // namespace

at::Tensor linear_cross_entropy_forward(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& targets) {
  const int64_t tokens = hidden.size(0);
  const int64_t rows = reference_cross_entropy_rows(weight.size(0)).logits;
  at::Tensor nll =
      at::empty({tokens}, hidden.options().dtype(accumulation_type(hidden.scalar_type())));
  for (int64_t begin = 0; begin < tokens; begin += rows) {
    const int64_t count = std::min(rows, tokens - begin);
    nll.narrow(0, begin, count)
        .copy_(
            evaluate(hidden.narrow(0, begin, count), weight, targets.narrow(0, begin, count)).nll);
  }
  return nll;
}

LinearCrossEntropyOutput linear_cross_entropy_train(const at::Tensor& hidden,
                                                    const at::Tensor& weight,
                                                    const at::Tensor& targets,
                                                    const GradientTarget& grad_weight,
                                                    const NllWeight& nll_weight) {
  const int64_t tokens = hidden.size(0);
  const int64_t rows = reference_cross_entropy_rows(weight.size(0)).logits;
  GradientTarget of_chunk = grad_weight;
  LinearCrossEntropyOutput out;
  out.nll = at::empty({tokens}, hidden.options().dtype(accumulation_type(hidden.scalar_type())));
  out.grad_hidden = at::empty_like(hidden);
  for (int64_t begin = 0; begin < tokens; begin += rows) {
    const int64_t count = std::min(rows, tokens - begin);
    const at::Tensor hidden_chunk = hidden.narrow(0, begin, count);
    Chunk chunk = evaluate(hidden_chunk, weight, targets.narrow(0, begin, count));
    out.nll.narrow(0, begin, count).copy_(chunk.nll);

    // dnll/dlogits = softmax - onehot, times the token's weight; nothing where ignored.
    at::Tensor scale = chunk.counted.to(chunk.nll.scalar_type());
    if (nll_weight) scale = scale * nll_weight(chunk.nll, begin);
    at::Tensor grad = chunk.logits.sub_(chunk.logsumexp).exp_();
    grad.scatter_add_(1, chunk.index, at::full_like(chunk.index, -1, grad.options()));
    grad.mul_(scale.unsqueeze(1));
    grad = grad.to(hidden.scalar_type());

    at::Tensor grad_hidden = out.grad_hidden.narrow(0, begin, count);
    at::mm_out(grad_hidden, grad, weight);
    linear_weight_gradient(grad, hidden_chunk, of_chunk);
    of_chunk.sum = GradientSum::kAdd;
  }
  return out;
}

}  // namespace reference
}  // namespace swiattn
