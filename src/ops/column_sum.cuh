// Sums over rows, column by column, in two deterministic steps. In the first a block walks over
// every kColumnSumBlocks-th row, its threads keeping their columns in registers; the second adds
// the blocks.
#pragma once

#include <type_traits>

#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {

constexpr int kColumnSumBlocks = 264;  // two on each of an H100's multiprocessors
constexpr int kColumnSumThreads = 256;

// A thread's columns: kSlots vectors, kColumnSumThreads vectors apart. Rows up to kSlots * 2048
// wide.
template <int kSlots>
struct ColumnSums {
  float sum[kSlots][kVector] = {};

  __device__ void write(float* partial, int64_t width) const {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t column =
          (static_cast<int64_t>(slot) * kColumnSumThreads + threadIdx.x) * kVector;
      if (column >= width) return;
#pragma unroll
      for (int i = 0; i < kVector; ++i) partial[blockIdx.x * width + column + i] = sum[slot][i];
    }
  }
};

// total[column] += sum over blocks of partial[block, column].
void add_partial_sums(const float* partial, float* total, int64_t width, cudaStream_t stream);

// Calls launch(integral constant of the slots that `width` needs).
template <class Launch>
void with_slots(int64_t width, const Launch& launch) {
  const int64_t per_slot = kColumnSumThreads * kVector;
  if (width <= per_slot) return launch(std::integral_constant<int, 1>());
  if (width <= 2 * per_slot) return launch(std::integral_constant<int, 2>());
  return launch(std::integral_constant<int, 4>());
}

}  // namespace swiattn::gpu
