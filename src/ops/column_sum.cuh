// Sums over rows, column by column, in two deterministic steps. In the first a block walks over its
// share of the rows, its threads keeping their columns in registers; the second adds the blocks.
#pragma once

#include "ops/gpu_kernels.h"
#include "ops/row_threads.cuh"

namespace swiattn::gpu {

// A thread's columns, those of its vectors in a row (row_threads.cuh).
template <int kSlots>
struct ColumnSums {
  float sum[kSlots][kVector] = {};

  // `partial` [blocks, width].
  __device__ void write(float* partial, int64_t width) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t column = vector_of(slot) * kVector;
      if (column >= width) return;
      store_floats(partial + blockIdx.x * width + column, sum[slot]);
    }
  }
};

// The second step: the sum over blocks of partial[block, column]. Does nothing without a total.
void add_partial_sums(const ColumnSum& columns, int64_t blocks, int64_t width, cudaStream_t stream);

}  // namespace swiattn::gpu
