// Rotary positions, alone and behind the norm of heads.
#include <ATen/ATen.h>

#include "ops/fused_operations.h"
#include "ops/fused_tensors.h"
#include "ops/gpu_kernels.h"

namespace swiattn::fused {
namespace {

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

}  // namespace

at::Tensor head_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps,
                             const RotaryTable& table) {
  if (!head_norm_rows(x)) return reference::head_norm_forward(x, weight, eps, table);
  at::Tensor before = at::empty(x.sizes(), x.options());
  gpu::head_norm_forward(head_norm_arguments(x, weight, eps, table), x.mutable_data_ptr(),
                         before.mutable_data_ptr(), current_stream());
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
                          data(before), weight_sum.arguments, blocks, current_stream());
}

void apply_rotary(const at::Tensor& x, const RotaryTable& table, RotaryDirection direction) {
  if (!head_rows(x)) return reference::apply_rotary(x, table, direction);
  gpu::apply_rotary(x.mutable_data_ptr(), table.cosine.const_data_ptr<float>(),
                    table.sine.const_data_ptr<float>(), x.size(0), x.size(1), x.size(2),
                    x.stride(0), direction == RotaryDirection::kForward ? 1.0F : -1.0F,
                    current_stream());
}

}  // namespace swiattn::fused
