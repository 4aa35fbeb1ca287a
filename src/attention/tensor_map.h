// Descriptions of matrices in memory for Hopper's tensor copy engine. Host code, built with CUDA.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace swiattn::gpu {

// A box of `box_rows` rows and 64 columns of one head of x [rows, heads, head_dim] bfloat16, rows
// `row_stride` elements apart, as rows of 128 swizzled bytes; coordinates are (column, head, row).
// What a box has outside of x reads as zero. Throws std::runtime_error.
CUtensorMap head_box_map(const void* x, int64_t rows, int64_t heads, int64_t head_dim,
                         int64_t row_stride, uint32_t box_rows);

}  // namespace swiattn::gpu
