// Products of bfloat16 matrices on a GPU, by cuBLAS.
//
// The kernel is the first of those that cuBLAS proposes, with one exception. On Hopper, whose power
// limit makes the kernel that needs least energy the fastest, smaller tiles that fill the
// multiprocessors as well take up to 9 % less time than the tiles of 192 x 192 and of 320 x 128
// results that cuBLAS prefers for some of a layer's products (docs/architecture.md, "Matrix
// products"). Shapes, strides, types, alignment and the device decide, and no measurement, so that
// the same product has the same bits in every run. What was decided is kept for each thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "parallel/gradient_sum.h"

namespace swiattn::fused {

// c = a b or c += a b, queued on the current stream and summed in float32. a [m, k] and b [k, n]
// are bfloat16, rows or columns contiguous (a transposed view says how it lies); c [m, n] is
// bfloat16 or float32, rows contiguous. All lie on one device, and none is empty.
void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, GradientSum sum);

// c = addend + a b, summed in float32 and rounded once: `addend` has c's shape, strides and type;
// it is c itself or does not overlap it.
void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& addend, const at::Tensor& c);

// How many results a block of the kernel for a b computes at a time, for tests; of the result as
// cuBLAS sees it, transposed. Zeros where it is no size that is taken instead of a large one.
struct GemmTile {
  int64_t rows = 0, columns = 0;
};
GemmTile gemm_tile(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c);

}  // namespace swiattn::fused
