#include "ops/routing.h"

#include <ATen/ATen.h>

namespace swiattn::reference {
namespace {

using S = RoutingStatistics;

at::Tensor route_of(const RoutedTokens& tokens) {
  if (tokens.taken == BranchTaken::kRouted) return tokens.route;
  return at::full_like(tokens.counted, tokens.taken == BranchTaken::kFull);
}

// The terms of an estimated sum.
at::Tensor weighted(const RoutedTokens& tokens, const at::Tensor& terms) {
  return tokens.weight.defined() ? terms * tokens.weight : terms;
}

}  // namespace

void count_routing(const RoutedTokens& tokens, const at::Tensor& row) {
  const at::Tensor route = route_of(tokens);
  const at::Tensor far = tokens.position >= tokens.window;
  const at::Tensor visible = tokens.position + 1;
  row.zero_();
  row[S::kTokens].fill_(static_cast<double>(tokens.counted.size(0)));
  row[S::kFull].copy_(route.sum());
  row[S::kFarTokens].copy_(far.sum());
  row[S::kFarFull].copy_(far.logical_and(route).sum());
  row[S::kCounted].copy_(tokens.counted.sum());
  row[S::kVisiblePairs].copy_(at::where(route, visible, visible.clamp_max(tokens.window)).sum());
  if (tokens.logits.defined()) {
    const at::Tensor s = tokens.logits.to(at::kDouble);
    const at::Tensor p = s.sigmoid();
    row[S::kLogit].copy_(s.sum());
    row[S::kLogitSquare].copy_(s.square().sum());
    row[S::kEntropy].copy_((at::softplus(s) - s * p).sum());  // -p ln p - (1-p) ln(1-p)
  }
  if (tokens.disagreement.defined()) {
    row[S::kDisagreement].copy_(weighted(tokens, tokens.disagreement).sum(at::kDouble));
  }
}

at::Tensor router_gradient(const RoutedTokens& tokens, const RouterObjective& objective,
                           const at::Tensor& grad_gate, const at::Tensor& row) {
  count_routing(tokens, row);
  const at::Tensor p = tokens.logits.sigmoid();
  at::Tensor grad_logits = grad_gate * p * (1 - p);
  if (objective.gamma.active()) {
    const RegularizerTerms terms = regularizer_gamma(objective.gamma, tokens.logits, objective.nll,
                                                     tokens.disagreement, tokens.counted);
    row[S::kGamma].copy_(weighted(tokens, terms.gamma * tokens.counted).sum(at::kDouble));
    row[S::kRegularizer].copy_(weighted(tokens, terms.value).sum(at::kDouble));
    grad_logits.add_(terms.grad_logits, 1.0 / static_cast<double>(objective.layers));
  }
  return weighted(tokens, grad_logits);
}

}  // namespace swiattn::reference
