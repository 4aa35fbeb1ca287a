#include <ATen/ATen.h>

#include "ops/fused_operations.h"
#include "ops/fused_tensors.h"
#include "ops/gpu_kernels.h"

namespace swiattn::fused {
namespace {

bool covers(const RoutedTokens& tokens) {
  const auto narrow = [](const at::Tensor& tensor) {
    return !tensor.defined() || tensor.scalar_type() == at::kFloat;
  };
  return narrow(tokens.logits) && narrow(tokens.disagreement);
}

// What the statistics alone need.
gpu::RoutingArguments routing_arguments(const RoutedTokens& tokens, const at::Tensor& partial,
                                        const at::Tensor& row) {
  gpu::RoutingArguments a = {};
  a.taken = tokens.taken;
  a.route = optional_data<bool>(tokens.route);
  a.position = tokens.position.const_data_ptr<int64_t>();
  a.counted = tokens.counted.const_data_ptr<bool>();
  a.logits = optional_data<float>(tokens.logits);
  a.disagreement = optional_data<float>(tokens.disagreement);
  a.weight = optional_data<float>(tokens.weight);
  a.tokens = tokens.position.size(0);
  a.window = tokens.window;
  a.partial = partial.mutable_data_ptr<double>();
  a.row = row.mutable_data_ptr<double>();
  return a;
}

at::Tensor routing_partial(const at::Tensor& row) {
  return at::empty({gpu::routing_blocks(), RoutingStatistics::kColumns}, row.options());
}

}  // namespace

void count_routing(const RoutedTokens& tokens, const at::Tensor& row) {
  if (!covers(tokens)) return reference::count_routing(tokens, row);
  const at::Tensor partial = routing_partial(row);
  gpu::routing(routing_arguments(tokens, partial, row), current_stream());
}

at::Tensor router_gradient(const RoutedTokens& tokens, const RouterObjective& objective,
                           const at::Tensor& grad_gate, const at::Tensor& row) {
  if (!covers(tokens)) return reference::router_gradient(tokens, objective, grad_gate, row);
  at::Tensor grad_logits = at::empty_like(tokens.logits);
  const at::Tensor partial = routing_partial(row);
  gpu::RoutingArguments a = routing_arguments(tokens, partial, row);
  a.nll = objective.nll.const_data_ptr<float>();
  a.gate_gradient = grad_gate.const_data_ptr<float>();
  a.grad_logits = grad_logits.mutable_data_ptr<float>();
  const GammaCoefficients& gamma = objective.gamma;
  a.gamma = {static_cast<float>(gamma.base), static_cast<float>(gamma.eps),
             static_cast<float>(gamma.nll_weight), static_cast<float>(gamma.disagreement_weight),
             gamma.constant};
  a.layers = objective.layers;
  gpu::routing(a, current_stream());
  return grad_logits;
}

}  // namespace swiattn::fused
