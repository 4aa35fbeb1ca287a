#include "ops/column_sum.cuh"

#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"

namespace swiattn::gpu {
namespace {

__global__ void add_blocks(const float* partial, float* total, int64_t width) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= width) return;
  float sum = 0.0F;
  for (int block = 0; block < kColumnSumBlocks; ++block) sum += partial[block * width + column];
  total[column] += sum;
}

}  // namespace

void add_partial_sums(const float* partial, float* total, int64_t width, cudaStream_t stream) {
  constexpr int kThreads = 32;  // many small blocks: the columns are few
  add_blocks<<<static_cast<int>((width + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      partial, total, width);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

int column_sum_blocks() { return kColumnSumBlocks; }

}  // namespace swiattn::gpu
