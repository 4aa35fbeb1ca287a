#include "ops/column_sum.cuh"

#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

constexpr int kColumns = 32;  // of a block, a thread each in every lane
constexpr int kLanes = 16;    // of a block; lane l takes partial sums l, l + kLanes …

__global__ void __launch_bounds__(kColumns* kLanes)
    add_blocks(ColumnSum columns, int64_t blocks, int64_t width) {
  __shared__ float of_lane[kLanes][kColumns];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + threadIdx.x;
  float sum = 0.0F;
  if (column < width) {
#pragma unroll 4
    for (int64_t block = threadIdx.y; block < blocks; block += kLanes) {
      sum += columns.partial[block * width + column];
    }
  }
  of_lane[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column >= width) return;
#pragma unroll
  for (int lane = 1; lane < kLanes; ++lane) sum += of_lane[lane][threadIdx.x];
  columns.total[column] = sum + (columns.sum == GradientSum::kAdd ? columns.total[column] : 0.0F);
}

}  // namespace

void add_partial_sums(const ColumnSum& columns, int64_t blocks, int64_t width,
                      cudaStream_t stream) {
  if (columns.total == nullptr) return;
  add_blocks<<<static_cast<unsigned>((width + kColumns - 1) / kColumns), dim3(kColumns, kLanes), 0,
               stream>>>(columns, blocks, width);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
