#include "ops/embedding.h"

#include <ATen/ATen.h>

namespace swiattn::reference {

at::Tensor embedding_forward(const at::Tensor& table, const at::Tensor& ids) {
  return table.index_select(0, ids);
}

void embedding_backward(const at::Tensor& grad, const at::Tensor& ids,
                        const at::Tensor& grad_table) {
  grad_table.index_add_(0, ids, grad.to(grad_table.scalar_type()));
}

}  // namespace swiattn::reference
