#include "ops/fused_operations.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

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

bool column_sums(const at::Tensor& tensor) {
  return vectors(tensor) && tensor.size(-1) <= gpu::kMaxColumnSumWidth;
}

at::Tensor partial_sums(const at::Tensor& like, int64_t width) {
  return at::empty({gpu::column_sum_blocks(), width}, like.options().dtype(at::kFloat));
}

// Rows a chunk: some 64 million float32 logits, 256 MiB.
int64_t chunk_rows(int64_t vocab_size) {
  return std::max<int64_t>(128, (int64_t{1} << 26) / vocab_size / 128 * 128);
}

}  // namespace

namespace fused {

RmsNormOutput rms_norm_forward(const at::Tensor& x, const at::Tensor& delta,
                               const at::Tensor& weight, double eps) {
  if (!column_sums(x) || (delta.defined() && !vectors(delta))) {
    return reference::rms_norm_forward(x, delta, weight, eps);
  }
  RmsNormOutput out;
  out.residual = delta.defined() ? at::empty_like(x) : x;
  out.normed = at::empty_like(x);
  out.inverse_rms = at::empty({x.size(0)}, x.options().dtype(at::kFloat));
  gpu::rms_norm_forward(
      {data(x), data(delta), data(weight),
       delta.defined() ? out.residual.mutable_data_ptr() : nullptr, out.normed.mutable_data_ptr(),
       out.inverse_rms.mutable_data_ptr<float>(), x.size(0), x.size(1), static_cast<float>(eps)},
      stream());
  return out;
}

at::Tensor rms_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_residual,
                             const at::Tensor& residual, const at::Tensor& weight,
                             const at::Tensor& inverse_rms, const at::Tensor& grad_weight) {
  if (!column_sums(residual) || !vectors(grad_normed) ||
      (grad_residual.defined() && !vectors(grad_residual))) {
    return reference::rms_norm_backward(grad_normed, grad_residual, residual, weight, inverse_rms,
                                        grad_weight);
  }
  const int64_t width = residual.size(1);
  at::Tensor grad_x = at::empty_like(residual);
  const at::Tensor partial = grad_weight.defined() ? partial_sums(residual, width) : at::Tensor();
  gpu::rms_norm_backward({data(grad_normed), data(grad_residual), data(residual), data(weight),
                          inverse_rms.const_data_ptr<float>(), grad_x.mutable_data_ptr(),
                          partial.defined() ? partial.mutable_data_ptr<float>() : nullptr,
                          partial.defined() ? grad_weight.mutable_data_ptr<float>() : nullptr,
                          residual.size(0), width},
                         stream());
  return grad_x;
}

void apply_rotary(const at::Tensor& x, const RotaryTable& table, RotaryDirection direction) {
  const bool covered = x.scalar_type() == at::kBFloat16 && x.size(2) % 16 == 0 &&
                       x.stride(2) == 1 && x.stride(1) == x.size(2) && x.stride(0) % 8 == 0 &&
                       reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  if (!covered) return reference::apply_rotary(x, table, direction);
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

at::Tensor swiglu_backward(const at::Tensor& grad, const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  if (!vectors(gate_up) || !vectors(grad) || width % 8 != 0) {
    return reference::swiglu_backward(grad, gate_up);
  }
  at::Tensor out = at::empty_like(gate_up);
  gpu::swiglu_backward(data(grad), data(gate_up), out.mutable_data_ptr(), gate_up.size(0), width,
                       stream());
  return out;
}

at::Tensor router_forward(const at::Tensor& hidden, const at::Tensor& weight) {
  if (!vectors(hidden)) return reference::router_forward(hidden, weight);
  at::Tensor logits = at::empty({hidden.size(0)}, hidden.options().dtype(at::kFloat));
  gpu::router_forward(data(hidden), weight.const_data_ptr<float>(),
                      logits.mutable_data_ptr<float>(), hidden.size(0), hidden.size(1), stream());
  return logits;
}

void router_backward(const at::Tensor& grad_logits, const at::Tensor& hidden,
                     const at::Tensor& weight, const at::Tensor& grad_hidden,
                     const at::Tensor& grad_weight) {
  if (!column_sums(hidden) || !vectors(grad_hidden)) {
    return reference::router_backward(grad_logits, hidden, weight, grad_hidden, grad_weight);
  }
  const at::Tensor partial =
      grad_weight.defined() ? partial_sums(hidden, hidden.size(1)) : at::Tensor();
  gpu::router_backward({grad_logits.const_data_ptr<float>(), data(hidden),
                        weight.const_data_ptr<float>(), grad_hidden.mutable_data_ptr(),
                        partial.defined() ? partial.mutable_data_ptr<float>() : nullptr,
                        partial.defined() ? grad_weight.mutable_data_ptr<float>() : nullptr,
                        hidden.size(0), hidden.size(1)},
                       stream());
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
    float32_logits(hidden.narrow(0, begin, count), weight, logits);
    gpu::cross_entropy(logits.const_data_ptr<float>(), targets.const_data_ptr<int64_t>() + begin,
                       nll.mutable_data_ptr<float>() + begin, nullptr, count, weight.size(0),
                       stream());
  }
  return nll;
}

LinearCrossEntropyOutput linear_cross_entropy_train(const at::Tensor& hidden,
                                                    const at::Tensor& weight,
                                                    const at::Tensor& targets,
                                                    const at::Tensor& grad_weight,
                                                    const NllWeight& nll_weight) {
  if (!vectors(hidden) || nll_weight) {
    return reference::linear_cross_entropy_train(hidden, weight, targets, grad_weight, nll_weight);
  }
  const int64_t rows = std::min(chunk_rows(weight.size(0)), hidden.size(0));
  const auto wide = hidden.options().dtype(at::kFloat);
  LinearCrossEntropyOutput out{at::empty({hidden.size(0)}, wide), at::empty_like(hidden)};
  const at::Tensor logits_buffer = at::empty({rows, weight.size(0)}, wide);
  const at::Tensor grad_buffer = at::empty({rows, weight.size(0)}, hidden.options());
  for (int64_t begin = 0; begin < hidden.size(0); begin += rows) {
    const int64_t count = std::min(rows, hidden.size(0) - begin);
    const at::Tensor hidden_chunk = hidden.narrow(0, begin, count);
    const at::Tensor logits = logits_buffer.narrow(0, 0, count);
    const at::Tensor grad = grad_buffer.narrow(0, 0, count);
    float32_logits(hidden_chunk, weight, logits);
    gpu::cross_entropy(logits.const_data_ptr<float>(), targets.const_data_ptr<int64_t>() + begin,
                       out.nll.mutable_data_ptr<float>() + begin, grad.mutable_data_ptr(), count,
                       weight.size(0), stream());
    at::Tensor grad_hidden = out.grad_hidden.narrow(0, begin, count);
    at::mm_out(grad_hidden, grad, weight);
    if (grad_weight.defined()) fused::accumulate_weight_gradient(grad, hidden_chunk, grad_weight);
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
      .linear_forward = reference::linear_forward,
      .linear_backward = fused::linear_backward,
      .apply_rotary = fused::apply_rotary,
      .swiglu_forward = fused::swiglu_forward,
      .swiglu_backward = fused::swiglu_backward,
      .router_forward = fused::router_forward,
      .router_backward = fused::router_backward,
      .regularizer_gamma = reference::regularizer_gamma,
      .linear_cross_entropy_forward = fused::linear_cross_entropy_forward,
      .linear_cross_entropy_train = fused::linear_cross_entropy_train,
  };
  return kTable;
}

}  // namespace swiattn
