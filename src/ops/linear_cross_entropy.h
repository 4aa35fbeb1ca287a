// The output projection and the cross entropy after it, in chunks of rows, so that the logits of
// all tokens never exist at once. Per-token NLLs come out, since the regularizer needs them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "parallel/gradient_target.h"

namespace swiattn {

struct LinearCrossEntropyOutput {
  at::Tensor nll;          // [T] accumulation type; 0 where the target is ignored
  at::Tensor grad_hidden;  // [T, d], the type of hidden; undefined from the forward alone
};

// How many rows are worked on at a time.
struct CrossEntropyRows {
  int64_t logits;     // their logits exist at once, in the accumulation type
  int64_t gradients;  // the gradients of their logits do, in the type of hidden
};
CrossEntropyRows reference_cross_entropy_rows(int64_t vocab_size);
CrossEntropyRows fused_cross_entropy_rows(int64_t vocab_size);  // on a GPU in bfloat16

// What one token's NLL is multiplied by in the objective, given the NLLs of rows [begin, begin +
// n): returns [n]. Empty for the plain sum. Only a regularizer whose gamma is not detached uses it.
using NllWeight = std::function<at::Tensor(const at::Tensor& nll, int64_t begin)>;

// nll_t = logsumexp(W h_t) - (W h_t)[target_t] for target_t >= 0.
using LinearCrossEntropyForward = at::Tensor(const at::Tensor& hidden,    // [T, d]
                                             const at::Tensor& weight,    // [V, d]
                                             const at::Tensor& targets);  // [T] int64, -1: ignored

// The forward together with the gradient of sum_t weight_t * nll_t, formed chunk by chunk:
// dL/dhidden is returned, dL/dW goes to grad_weight [V, d].
using LinearCrossEntropyTrain = LinearCrossEntropyOutput(const at::Tensor& hidden,
                                                         const at::Tensor& weight,
                                                         const at::Tensor& targets,
                                                         const GradientTarget& grad_weight,
                                                         const NllWeight& nll_weight);

namespace reference {
LinearCrossEntropyForward linear_cross_entropy_forward;
LinearCrossEntropyTrain linear_cross_entropy_train;
}  // namespace reference

}  // namespace swiattn
