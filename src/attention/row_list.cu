// Lists of rows. That of marked ones by a count of every block's marks and a prefix sum over the
// counts.
#include <cuda_runtime.h>

#include <climits>

#include "attention/listed_kernels.h"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;

__device__ bool takes_part(const FarListArguments& a, int64_t token) {
  return token < a.tokens && a.marked[token] && a.position[token] >= a.window;
}

__global__ void __launch_bounds__(kThreads) count_marks(FarListArguments a) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int count = __syncthreads_count(takes_part(a, token));
  if (threadIdx.x == 0) a.block_counts[blockIdx.x] = count;
}

// The sum of value over all threads before this one (`before`) and over all (`total`).
__device__ void prefix_sum(int value, int& before, int& total) {
  __shared__ int warps[kWarps];
  const int lane = threadIdx.x % 32;
  int inclusive = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffU, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  __syncthreads();
  if (lane == 31) warps[threadIdx.x / 32] = inclusive;
  __syncthreads();
  int earlier = 0;
  total = 0;
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp == threadIdx.x / 32) earlier = total;
    total += warps[warp];
  }
  before = earlier + inclusive - value;
}

__device__ int marks_of_blocks(const int32_t* counts, int blocks) {
  int mine = 0;
  for (int block = threadIdx.x; block < blocks; block += kThreads) mine += counts[block];
  int before, total;
  prefix_sum(mine, before, total);
  return total;
}

__global__ void __launch_bounds__(kThreads) write_list(FarListArguments a) {
  const int earlier = marks_of_blocks(a.block_counts, blockIdx.x);
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool listed = takes_part(a, token);
  int before, total;
  prefix_sum(listed ? 1 : 0, before, total);
  if (listed) {
    const int index = earlier + before;
    a.list.row[index] = static_cast<int32_t>(token);
    a.list.first_key[index] = static_cast<int32_t>(token - a.position[token]);
    a.list.last_key[index] = static_cast<int32_t>(token - a.window);
  }
  if (blockIdx.x + 1 < gridDim.x) return;
  const int count = earlier + total;
  if (threadIdx.x == 0) *a.list.count = count;
  const int index = count + static_cast<int>(threadIdx.x);
  if (threadIdx.x < kListTile && index < list_capacity(count)) {
    a.list.row[index] = -1;
    a.list.first_key[index] = INT_MAX;
    a.list.last_key[index] = -1;
  }
}

__global__ void __launch_bounds__(kThreads) write_near_list(NearListArguments a) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (token == 0) *a.list.count = static_cast<int32_t>(a.tokens);
  if (token >= list_capacity(a.tokens)) return;
  const bool inside = token < a.tokens;
  a.list.row[token] = inside ? static_cast<int32_t>(token) : -1;
  a.list.first_key[token] =
      inside ? static_cast<int32_t>(token - min(a.position[token], a.window - 1)) : INT_MAX;
  a.list.last_key[token] = inside ? static_cast<int32_t>(token) : -1;
}

}  // namespace

void list_near_rows(const NearListArguments& a, void* stream) {
  if (a.tokens == 0) return;
  const auto blocks = static_cast<unsigned>(list_blocks(list_capacity(a.tokens)));
  write_near_list<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

int64_t list_blocks(int64_t tokens) { return (tokens + kThreads - 1) / kThreads; }

void list_far_rows(const FarListArguments& a, void* stream) {
  if (a.tokens == 0) return;
  const auto blocks = static_cast<unsigned>(list_blocks(a.tokens));
  const auto on = static_cast<cudaStream_t>(stream);
  count_marks<<<blocks, kThreads, 0, on>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
  write_list<<<blocks, kThreads, 0, on>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
