// What became of a layer's tokens: the gradient of their router's logits (docs/method.md, "One
// layer" and "The loss and the regularizer"), and the sums that describe them, the layer's row of
// RoutingStatistics.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/regularizer_gamma.h"
#include "ops/routing_columns.h"

namespace swiattn {

// A layer's tokens after its attention.
struct RoutedTokens {
  BranchTaken taken = BranchTaken::kRouted;
  at::Tensor route;         // [T] bool, full attention; undefined unless `taken` is kRouted
  at::Tensor position;      // [T] int64, index in the document
  at::Tensor counted;       // [T] bool, whether the target counts
  at::Tensor logits;        // [T] s; undefined without a router
  at::Tensor disagreement;  // [T]; undefined without both branches
  // [T] of the tokens whose far keys were sampled (drawn_rows.h), 0 where there is no disagreement;
  // undefined: 1. It multiplies ds and, in the sums, disagreement, gamma and regularizer.
  at::Tensor weight;
  int64_t window = 0;  // w
};

// Writes all columns of `row` [kColumns] float64; the regularizer's are 0.
using CountRouting = void(const RoutedTokens& tokens, const at::Tensor& row);

// What the loss tells a layer's router.
struct RouterObjective {
  GammaCoefficients gamma;
  at::Tensor nll;      // [T]
  int64_t layers = 0;  // of the model
};

// Returns dL/ds [T] of tokens that have logits and a disagreement, and writes all columns of `row`:
//
//   ds_t = weight_t (grad_gate_t p_t (1 - p_t) + gamma_t p_t / layers),    p = sigmoid(s)
//
// the second term only where the target counts. grad_gate [T] is the straight-through estimator's
// factor <dL/do, o_full - o_swa>.
using RouterGradient = at::Tensor(const RoutedTokens& tokens, const RouterObjective& objective,
                                  const at::Tensor& grad_gate, const at::Tensor& row);

namespace reference {
CountRouting count_routing;
RouterGradient router_gradient;
}  // namespace reference

}  // namespace swiattn
