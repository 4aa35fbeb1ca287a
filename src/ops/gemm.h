// Products of bfloat16 matrices on a GPU, by cuBLAS.
//
// The kernel is the first of those that cuBLAS proposes, with one exception. On an H100, whose
// power limit makes the kernel that needs least energy the fastest, the tiles of 192 x 192 and of
// 320 x 128 results that cuBLAS prefers for some of a layer's products take up to 9 % more time
// than smaller ones (docs/architecture.md, "Matrix products"). Shapes, strides, types, alignment
// and the device decide, and no measurement, so that the same product has the same bits in every
// run. What was decided is kept for each thread.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/gradient_sum.h"

namespace swiattn::fused {

// c = a b or c += a b, queued on the current stream and summed in float32. a [m, k] and b [k, n]
// are bfloat16, rows or columns contiguous (a transposed view says how it lies); c [m, n] is
// bfloat16 or float32, rows contiguous. All lie on one device, and none is empty.
void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, GradientSum sum);

// c = addend + a b, summed in float32 and rounded once: `addend` has c's shape, strides and type.
void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& addend, const at::Tensor& c);

// Whether gemm() computes this product in tiles of 128 x 160 or 176 x 128, for tests.
bool gemm_takes_narrow_tiles(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c);

}  // namespace swiattn::fused
