// Attention between chosen rows and their far keys by our own kernels (listed_rows.h): work for the
// chosen rows alone, whose number stays on the device.
#pragma once

#include <ATen/core/Tensor.h>

#include "attention/backend.h"

namespace swiattn {

enum class Determinism { kFast, kDeterministic };

// Whether the kernels cover this problem on the current device: bfloat16, head widths 64 and 128,
// fewer than 2^31 tokens.
bool far_rows_covered(const at::Tensor& qkv, const AttentionShape& shape);

// AttentionBackend::backward of FAR for the rows that `rows` marks, added to grad_qkv.
void far_rows_backward(const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                       const at::Tensor& rows, const DocumentLayout& layout,
                       const AttentionShape& shape, const at::Tensor& grad_qkv,
                       Determinism determinism);

}  // namespace swiattn
