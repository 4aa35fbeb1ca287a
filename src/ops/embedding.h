// The token embedding: rows of a table by id.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/gradient_target.h"

namespace swiattn {

using EmbeddingForward = at::Tensor(const at::Tensor& table,  // [V, d]
                                    const at::Tensor& ids);   // [T] int64 → [T, d]

// Contributes sum over t of grad_t to row ids_t of grad_table [V, d].
using EmbeddingBackward = void(const at::Tensor& grad, const at::Tensor& ids,
                               const GradientTarget& grad_table);

namespace reference {
EmbeddingForward embedding_forward;
EmbeddingBackward embedding_backward;
}  // namespace reference

}  // namespace swiattn
