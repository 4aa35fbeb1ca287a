#include <ATen/ATen.h>

#include "ops/fused_operations.h"
#include "ops/fused_tensors.h"
#include "ops/gpu_kernels.h"

namespace swiattn::fused {

void embedding_backward(const at::Tensor& grad, const at::Tensor& ids,
                        const GradientTarget& grad_table) {
  if (!grad_table.defined()) return;
  const at::Tensor& table = grad_table.tensor;
  if (!vectors(grad) || table.scalar_type() != at::kFloat || !table.is_contiguous()) {
    return reference::embedding_backward(grad, ids, grad_table);
  }
  if (grad_table.sum == GradientSum::kWrite) table.zero_();  // most rows belong to no token
  if (ids.numel() == 0) return;
  const auto [sorted, order] = at::sort(ids, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const int64_t tokens = grad.size(0), width = grad.size(1);
  const at::Tensor partial = at::empty({gpu::embedding_parts(tokens), 2, width}, table.options());
  gpu::embedding_backward(
      {data(grad), sorted.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>(),
       partial.mutable_data_ptr<float>(), table.mutable_data_ptr<float>(), tokens, width},
      current_stream());
}

}  // namespace swiattn::fused
