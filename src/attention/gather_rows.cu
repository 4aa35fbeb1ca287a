// Gathering the operands of listed rows. Bound by memory: a warp takes a row at a time, sixteen
// bytes a lane.
#include <cuda_runtime.h>

#include "attention/listed_kernels.h"
#include "base/cuda_check.h"
#include "parallel/gpu_occupancy.cuh"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;

// `count` vectors, zero where there is no source.
__device__ void copy_row(const Bf16* from, Bf16* to, int64_t count) {
  const auto* source = static_cast<const Pack*>(from);
  for (int64_t v = threadIdx.x % 32; v < count; v += 32) {
    static_cast<Pack*>(to)[v] = source != nullptr ? source[v] : Pack{};
  }
}

__device__ const Bf16* row_of(const Bf16* base, int64_t row, int64_t stride) {
  return row < 0 ? nullptr : static_cast<const Pack*>(base) + row * (stride / kVector);
}

__global__ void __launch_bounds__(kThreads) gather(GatherRowsArguments a) {
  const int64_t width = a.heads * a.head_dim;
  const int64_t vectors = width / kVector;
  const int64_t capacity = list_capacity(a.tokens);
  const int64_t end = list_capacity(*a.list.count);
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  const int64_t rows_at_once = static_cast<int64_t>(gridDim.x) * kThreads / 32;
  for (int64_t i = first; i < end; i += rows_at_once) {
    const int64_t row = a.list.row[i];
    copy_row(row_of(a.from.query, row, a.from.query_stride),
             static_cast<Pack*>(a.query) + i * vectors, vectors);
    if (a.grad_out == nullptr) continue;
    copy_row(row_of(a.from.grad_out, row, width), static_cast<Pack*>(a.grad_out) + i * vectors,
             vectors);
    for (int64_t head = threadIdx.x % 32; head < a.heads; head += 32) {
      const int64_t to = head * capacity + i;
      a.lse[to] = row < 0 ? INFINITY : a.from.lse[head * capacity + row];
      a.delta[to] = row < 0 ? 0.0F : a.from.delta[head * capacity + row];
    }
  }
}

}  // namespace

void gather_rows(const GatherRowsArguments& a, void* stream) {
  const auto blocks = static_cast<unsigned>(blocks_at_once(gather, kThreads));
  gather<<<blocks, kThreads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
