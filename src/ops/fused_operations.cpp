#include "ops/fused_operations.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "ops/gemm.h"
#include "ops/gpu_kernels.h"

namespace swiattn {
namespace {

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

const void* data(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

// What a kernel that takes whole vectors along the last dimension can read.
bool vectors(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 && tensor.is_contiguous() &&
         tensor.size(-1) % 8 == 0 && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

// Rows that the kernels of the norm can read. Without any row they would write no column sum.
bool norm_rows(const at::Tensor& tensor) {
  return vectors(tensor) && tensor.size(0) > 0 && tensor.size(-1) <= gpu::kMaxRmsNormWidth;
}

// Heads of the packed projection that the kernels of rotary positions can work on.
bool head_rows(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 && x.size(2) % 16 == 0 && x.stride(2) == 1 &&
         x.stride(1) == x.size(2) && x.stride(0) % 8 == 0 &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

// As norm_rows().
bool head_norm_rows(const at::Tensor& x) {
  return head_rows(x) && x.numel() > 0 && x.size(2) <= gpu::kMaxHeadNormWidth;
}

gpu::HeadNormArguments head_norm_arguments(const at::Tensor& x, const at::Tensor& weight,
                                           double eps, const RotaryTable& table) {
  return {data(weight),
          table.cosine.const_data_ptr<float>(),
          table.sine.const_data_ptr<float>(),
          x.size(0),
          x.size(1),
          x.size(2),
          x.stride(0),
          static_cast<float>(eps)};
}

// A column sum into `target`, with room for the sums of the blocks.
struct ColumnSum {
  at::Tensor partial;
  gpu::ColumnSum arguments = {};

  ColumnSum(const GradientTarget& target, int64_t blocks, int64_t width) {
    if (!target.defined()) return;
    partial = at::empty({blocks, width}, target.tensor.options());
    arguments = {partial.mutable_data_ptr<float>(), target.tensor.mutable_data_ptr<float>(),
                 target.sum};
  }
};

template <class T>
const T* optional_data(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

RoutedNormOutput norm_forward(const at::Tensor& x, const at::Tensor& delta,
                              const at::Tensor& weight, double eps,
                              const at::Tensor& router_weight) {
  const auto wide = x.options().dtype(at::kFloat);
  RoutedNormOutput out;
  RmsNormOutput& norm = out.norm;
  norm.residual = delta.defined() ? at::empty_like(x) : x;
  norm.normed = at::empty_like(x);
  norm.inverse_rms = at::empty({x.size(0)}, wide);
  if (router_weight.defined()) out.logits = at::empty({x.size(0)}, wide);
  gpu::rms_norm_forward({data(x), data(delta), data(weight), optional_data<float>(router_weight),
                         delta.defined() ? norm.residual.mutable_data_ptr() : nullptr,
                         norm.normed.mutable_data_ptr(), norm.inverse_rms.mutable_data_ptr<float>(),
                         router_weight.defined() ? out.logits.mutable_data_ptr<float>() : nullptr,
                         x.size(0), x.size(1), static_cast<float>(eps)},
                        stream());
  return out;
}

// The router's gradient is undefined without one.
struct RouterPart {
  at::Tensor grad_logits;
  at::Tensor weight;
  GradientTarget grad_weight;
};

at::Tensor norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_residual,
                         const at::Tensor& residual, const at::Tensor& weight,
                         const at::Tensor& inverse_rms, const GradientTarget& grad_weight,
                         const RouterPart& router) {
  const int64_t rows = residual.size(0), width = residual.size(1);
  const int64_t blocks = gpu::rms_norm_backward_blocks(rows, width, router.grad_logits.defined());
  const ColumnSum weight_sum(grad_weight, blocks, width);
  const ColumnSum router_sum(router.grad_weight, blocks, width);
  at::Tensor grad_x = at::empty_like(residual);
  gpu::rms_norm_backward(
      {data(grad_normed), data(grad_residual), data(residual), data(weight),
       inverse_rms.const_data_ptr<float>(), optional_data<float>(router.grad_logits),
       optional_data<float>(router.weight), grad_x.mutable_data_ptr(), weight_sum.arguments,
       router_sum.arguments, rows, width},
      blocks, stream());
  return grad_x;
}

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

gpu::DrawArguments draw_arguments(const DrawnTokens& tokens) {
  return {tokens.seed, tokens.layer, tokens.samples.const_data_ptr<int64_t>(),
          tokens.sequence_length, tokens.tokens()};
}

at::Tensor routing_partial(const at::Tensor& row) {
  return at::empty({gpu::routing_blocks(), RoutingStatistics::kColumns}, row.options());
}

int64_t chunk_rows(int64_t vocab_size) {
  return std::max<int64_t>(128, kFusedChunkLogits / vocab_size / 128 * 128);
}

}  // namespace

namespace fused {

RmsNormOutput rms_norm_forward(const at::Tensor& x, const at::Tensor& delta,
                               const at::Tensor& weight, double eps) {
  if (!norm_rows(x) || (delta.defined() && !vectors(delta))) {
    return reference::rms_norm_forward(x, delta, weight, eps);
  }
  return norm_forward(x, delta, weight, eps, {}).norm;
}

at::Tensor rms_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_residual,
                             const at::Tensor& residual, const at::Tensor& weight,
                             const at::Tensor& inverse_rms, const GradientTarget& grad_weight) {
  if (!norm_rows(residual) || !vectors(grad_normed) ||
      (grad_residual.defined() && !vectors(grad_residual))) {
    return reference::rms_norm_backward(grad_normed, grad_residual, residual, weight, inverse_rms,
                                        grad_weight);
  }
  return norm_backward(grad_normed, grad_residual, residual, weight, inverse_rms, grad_weight, {});
}

RoutedNormOutput routed_norm_forward(const at::Tensor& x, const at::Tensor& delta,
                                     const at::Tensor& norm_weight, double eps,
                                     const at::Tensor& router_weight) {
  if (!norm_rows(x) || (delta.defined() && !vectors(delta))) {
    return reference::routed_norm_forward(x, delta, norm_weight, eps, router_weight);
  }
  return norm_forward(x, delta, norm_weight, eps, router_weight);
}

at::Tensor routed_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_logits,
                                const at::Tensor& grad_residual, const RmsNormOutput& saved,
                                const at::Tensor& norm_weight, const at::Tensor& router_weight,
                                const GradientTarget& grad_norm_weight,
                                const GradientTarget& grad_router_weight) {
  if (!norm_rows(saved.residual) || !vectors(grad_normed) || !vectors(grad_residual)) {
    return reference::routed_norm_backward(grad_normed, grad_logits, grad_residual, saved,
                                           norm_weight, router_weight, grad_norm_weight,
                                           grad_router_weight);
  }
  return norm_backward(grad_normed, grad_residual, saved.residual, norm_weight, saved.inverse_rms,
                       grad_norm_weight, {grad_logits, router_weight, grad_router_weight});
}

at::Tensor head_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps,
                             const RotaryTable& table) {
  if (!head_norm_rows(x)) return reference::head_norm_forward(x, weight, eps, table);
  at::Tensor before = at::empty(x.sizes(), x.options());
  gpu::head_norm_forward(head_norm_arguments(x, weight, eps, table), x.mutable_data_ptr(),
                         before.mutable_data_ptr(), stream());
  return before;
}

void head_norm_backward(const at::Tensor& grad, const at::Tensor& before, const at::Tensor& weight,
                        double eps, const RotaryTable& table, const GradientTarget& grad_weight) {
  if (!head_norm_rows(grad) || !vectors(before)) {
    return reference::head_norm_backward(grad, before, weight, eps, table, grad_weight);
  }
  const int64_t blocks = gpu::head_norm_backward_blocks(grad.size(0), grad.size(1), grad.size(2));
  const ColumnSum weight_sum(grad_weight, blocks, grad.size(2));
  gpu::head_norm_backward(head_norm_arguments(grad, weight, eps, table), grad.mutable_data_ptr(),
                          data(before), weight_sum.arguments, blocks, stream());
}

void apply_rotary(const at::Tensor& x, const RotaryTable& table, RotaryDirection direction) {
  if (!head_rows(x)) return reference::apply_rotary(x, table, direction);
  gpu::apply_rotary(x.mutable_data_ptr(), table.cosine.const_data_ptr<float>(),
                    table.sine.const_data_ptr<float>(), x.size(0), x.size(1), x.size(2),
                    x.stride(0), direction == RotaryDirection::kForward ? 1.0F : -1.0F, stream());
}

at::Tensor swiglu_forward(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  if (!vectors(gate_up) || width % 8 != 0) return reference::swiglu_forward(gate_up);
  at::Tensor out = at::empty({gate_up.size(0), width}, gate_up.options());
  gpu::swiglu_forward(data(gate_up), out.mutable_data_ptr(), gate_up.size(0), width, stream());
  return out;
}

SwigluGradients swiglu_backward(const at::Tensor& grad, const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  if (!vectors(gate_up) || !vectors(grad) || width % 8 != 0) {
    return reference::swiglu_backward(grad, gate_up);
  }
  gpu::swiglu_backward(gate_up.mutable_data_ptr(), grad.mutable_data_ptr(), gate_up.size(0), width,
                       stream());
  return {gate_up, grad};
}

at::Tensor draw_rows(const DrawnTokens& tokens, double probability) {
  at::Tensor rows = at::empty({tokens.tokens()}, tokens.samples.options().dtype(at::kBool));
  gpu::draw_rows(draw_arguments(tokens), probability, rows.mutable_data_ptr<bool>(), stream());
  return rows;
}

SampledRows sample_rows(const DrawnTokens& tokens, const FarSampling& sampling,
                        const GatedTokens& gated) {
  if (gated.logits.defined() && gated.logits.scalar_type() != at::kFloat) {
    return reference::sample_rows(tokens, sampling, gated);
  }
  const auto options = tokens.samples.options();
  SampledRows rows{at::empty({tokens.tokens()}, options.dtype(at::kBool)),
                   at::empty({tokens.tokens()}, options.dtype(at::kFloat))};
  gpu::sample_rows(
      {draw_arguments(tokens), sampling, optional_data<float>(gated.logits), gated.ratio,
       gated.route.const_data_ptr<bool>(), gated.position.const_data_ptr<int64_t>(), gated.window,
       rows.both.mutable_data_ptr<bool>(), rows.weight.mutable_data_ptr<float>()},
      stream());
  return rows;
}

void count_routing(const RoutedTokens& tokens, const at::Tensor& row) {
  if (!covers(tokens)) return reference::count_routing(tokens, row);
  const at::Tensor partial = routing_partial(row);
  gpu::routing(routing_arguments(tokens, partial, row), stream());
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
  gpu::routing(a, stream());
  return grad_logits;
}

at::Tensor linear_cross_entropy_forward(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& targets) {
  if (!vectors(hidden)) return reference::linear_cross_entropy_forward(hidden, weight, targets);
  const int64_t rows = chunk_rows(weight.size(0));
  const auto wide = hidden.options().dtype(at::kFloat);
  at::Tensor nll = at::empty({hidden.size(0)}, wide);
  const at::Tensor buffer = at::empty({std::min(rows, hidden.size(0)), weight.size(0)}, wide);
  for (int64_t begin = 0; begin < hidden.size(0); begin += rows) {
    const int64_t count = std::min(rows, hidden.size(0) - begin);
    const at::Tensor logits = buffer.narrow(0, 0, count);
    gemm(hidden.narrow(0, begin, count), weight.t(), logits, GradientSum::kWrite);
    gpu::cross_entropy(logits.const_data_ptr<float>(), targets.const_data_ptr<int64_t>() + begin,
                       nll.mutable_data_ptr<float>() + begin, nullptr, count, weight.size(0),
                       stream());
  }
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
  const int64_t rows = std::min(chunk_rows(weight.size(0)), hidden.size(0));
  const auto wide = hidden.options().dtype(at::kFloat);
  LinearCrossEntropyOutput out{at::empty({hidden.size(0)}, wide), at::empty_like(hidden)};
  GradientTarget of_chunk = grad_weight;
  const at::Tensor logits_buffer = at::empty({rows, weight.size(0)}, wide);
  const at::Tensor grad_buffer = at::empty({rows, weight.size(0)}, hidden.options());
  for (int64_t begin = 0; begin < hidden.size(0); begin += rows) {
    const int64_t count = std::min(rows, hidden.size(0) - begin);
    const at::Tensor hidden_chunk = hidden.narrow(0, begin, count);
    const at::Tensor logits = logits_buffer.narrow(0, 0, count);
    const at::Tensor grad = grad_buffer.narrow(0, 0, count);
    gemm(hidden_chunk, weight.t(), logits, GradientSum::kWrite);
    gpu::cross_entropy(logits.const_data_ptr<float>(), targets.const_data_ptr<int64_t>() + begin,
                       out.nll.mutable_data_ptr<float>() + begin, grad.mutable_data_ptr(), count,
                       weight.size(0), stream());
    at::Tensor grad_hidden = out.grad_hidden.narrow(0, begin, count);
    gemm(grad, weight, grad_hidden, GradientSum::kWrite);
    fused::linear_weight_gradient(grad, hidden_chunk, of_chunk);
    of_chunk.sum = GradientSum::kAdd;
  }
  return out;
}

}  // namespace fused

const Operations& fused_operations() {
  static constexpr Operations kTable = {
      .name = "fused",
      .embedding_forward = reference::embedding_forward,
      .embedding_backward = reference::embedding_backward,
      .rms_norm_forward = fused::rms_norm_forward,
      .rms_norm_backward = fused::rms_norm_backward,
      .linear_forward = fused::linear_forward,
      .linear_backward = fused::linear_backward,
      .linear_input_gradient = fused::linear_input_gradient,
      .linear_weight_gradient = fused::linear_weight_gradient,
      .apply_rotary = fused::apply_rotary,
      .head_norm_forward = fused::head_norm_forward,
      .head_norm_backward = fused::head_norm_backward,
      .swiglu_forward = fused::swiglu_forward,
      .swiglu_backward = fused::swiglu_backward,
      .routed_norm_forward = fused::routed_norm_forward,
      .routed_norm_backward = fused::routed_norm_backward,
      .regularizer_gamma = reference::regularizer_gamma,
      .draw_rows = fused::draw_rows,
      .sample_rows = fused::sample_rows,
      .count_routing = fused::count_routing,
      .router_gradient = fused::router_gradient,
      .linear_cross_entropy_forward = fused::linear_cross_entropy_forward,
      .linear_cross_entropy_train = fused::linear_cross_entropy_train,
  };
  return kTable;
}

}  // namespace swiattn
