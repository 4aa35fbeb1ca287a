// The token embedding: rows of a table by id.
#pragma once

#include <ATen/core/Tensor.h>

namespace swiattn {

using EmbeddingForward = at::Tensor(const at::Tensor& table,  // [V, d]
                                    const at::Tensor& ids);   // [T] int64 → [T, d]

// grad_table[ids_t] += grad_t; grad_table [V, d] float32.
using EmbeddingBackward = void(const at::Tensor& grad, const at::Tensor& ids,
                               const at::Tensor& grad_table);

namespace reference {
EmbeddingForward embedding_forward;
EmbeddingBackward embedding_backward;
}  // namespace reference

}  // namespace swiattn
