#include <ATen/ATen.h>

#include <algorithm>

#include "ops/fused_operations.h"
#include "ops/fused_tensors.h"
#include "ops/gemm.h"
#include "ops/gpu_kernels.h"

namespace swiattn::fused {
namespace {

struct Rows {
  int64_t begin, count;

  at::Tensor of(const at::Tensor& tensor) const { return tensor.narrow(0, begin, count); }
};

// Calls each() with one piece of `rows` after the other.
template <class Each>
void for_each_piece(const Rows& rows, int64_t most, const Each& each) {
  for (int64_t done = 0; done < rows.count; done += most) {
    each(Rows{rows.begin + done, std::min(most, rows.count - done)});
  }
}

// The logits of these rows go into `logits` [at least as many, V], and their NLLs into `nll`; what
// logits have as gradients into `grad_logits` [rows, V] where that is defined.
void evaluate(const Rows& rows, const at::Tensor& hidden, const at::Tensor& weight,
              const at::Tensor& targets, const at::Tensor& logits, const at::Tensor& nll,
              const at::Tensor& grad_logits) {
  gemm(rows.of(hidden), weight.t(), logits.narrow(0, 0, rows.count), GradientSum::kWrite);
  gpu::cross_entropy(logits.const_data_ptr<float>(), targets.const_data_ptr<int64_t>() + rows.begin,
                     nll.mutable_data_ptr<float>() + rows.begin,
                     grad_logits.defined() ? grad_logits.mutable_data_ptr() : nullptr, rows.count,
                     weight.size(0), current_stream());
}

at::Tensor room(int64_t rows, const at::Tensor& hidden, const at::Tensor& weight,
                at::ScalarType type) {
  return at::empty({std::min(rows, hidden.size(0)), weight.size(0)}, hidden.options().dtype(type));
}

}  // namespace

at::Tensor linear_cross_entropy_forward(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& targets) {
  if (!vectors(hidden)) return reference::linear_cross_entropy_forward(hidden, weight, targets);
  const int64_t at_once = fused_cross_entropy_rows(weight.size(0)).logits;
  at::Tensor nll = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat));
  const at::Tensor logits = room(at_once, hidden, weight, at::kFloat);
  for_each_piece({0, hidden.size(0)}, at_once, [&](const Rows& rows) {
    evaluate(rows, hidden, weight, targets, logits, nll, {});
  });
  return nll;
}

LinearCrossEntropyOutput linear_cross_entropy_train(const at::Tensor& hidden,
                                                    const at::Tensor& weight,
                                                    const at::Tensor& targets,
                                                    const GradientTarget& grad_weight,
                                                    const NllWeight& nll_weight) {
  if (!vectors(hidden) || nll_weight) {
    return reference::linear_cross_entropy_train(hidden, weight, targets, grad_weight, nll_weight);
  }
  const CrossEntropyRows at_once = fused_cross_entropy_rows(weight.size(0));
  LinearCrossEntropyOutput out{at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat)),
                               at::empty_like(hidden)};
  GradientTarget target = grad_weight;
  const at::Tensor logits = room(at_once.logits, hidden, weight, at::kFloat);
  const at::Tensor gradients = room(at_once.gradients, hidden, weight, hidden.scalar_type());
  for_each_piece({0, hidden.size(0)}, at_once.gradients, [&](const Rows& group) {
    for_each_piece(group, at_once.logits, [&](const Rows& rows) {
      evaluate(rows, hidden, weight, targets, logits, out.nll,
               gradients.narrow(0, rows.begin - group.begin, rows.count));
    });
    const at::Tensor grad = gradients.narrow(0, 0, group.count);
    gemm(grad, weight, group.of(out.grad_hidden), GradientSum::kWrite);
    fused::linear_weight_gradient(grad, group.of(hidden), target);
    target.sum = GradientSum::kAdd;
  });
  return out;
}

}  // namespace swiattn::fused
