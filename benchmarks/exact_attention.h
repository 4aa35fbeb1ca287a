// Switch attention of one route in float64, in chunks of rows: the truth that errors are measured
// against at lengths where a mask of S x S would not fit.
#pragma once

#include <ATen/core/Tensor.h>

#include "attention/backend.h"

namespace swiattn {

struct ExactAttention {
  at::Tensor out;       // [T, Hq, D] of the branch taken, float64
  at::Tensor grad_qkv;  // [T, (Hq + 2 Hkv) D] float64
};

ExactAttention exact_attention(const at::Tensor& qkv, const at::Tensor& grad_out,
                               const at::Tensor& route, const DocumentLayout& layout,
                               const AttentionShape& shape);

}  // namespace swiattn
