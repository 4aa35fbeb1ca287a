#include "ops/embedding.h"

#include <ATen/ATen.h>

namespace swiattn::reference {

at::Tensor embedding_forward(const at::Tensor& table, const at::Tensor& ids) {
  return table.index_select(0, ids);
}

void embedding_backward(const at::Tensor& grad, const at::Tensor& ids,
                        const GradientTarget& grad_table) {
  if (!grad_table.defined()) return;
  const at::Tensor& table = grad_table.tensor;
  if (grad_table.sum == GradientSum::kWrite) table.zero_();  // most rows belong to no token
  table.index_add_(0, ids, grad.to(table.scalar_type()));
}

}  // namespace swiattn::reference
