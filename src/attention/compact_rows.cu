// Gathering the operands of listed rows, and adding their query gradients back. Bound by memory: a
// warp takes a row at a time, sixteen bytes a lane.
#include <cuda_runtime.h>

#include "attention/listed_rows.h"
#include "base/cuda_check.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 132 * 8;
constexpr int kRowsAtOnce = kBlocks * kThreads / 32;
constexpr float kLog2E = 1.4426950408889634F;

__device__ int64_t first_row() {
  return (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / 32;
}

__device__ void store_zero(float* to, int64_t vector) {
  auto* pair = reinterpret_cast<float4*>(to) + 2 * vector;
  pair[0] = make_float4(0, 0, 0, 0);
  pair[1] = make_float4(0, 0, 0, 0);
}

// The sum over the 2^k lanes that share a head.
__device__ float head_sum(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  return value;
}

__global__ void __launch_bounds__(kThreads) gather(GatherArguments a) {
  const int64_t vectors = a.heads * a.head_dim / kVector;
  const int lanes = static_cast<int>(a.head_dim / kVector);
  const int64_t capacity = list_capacity(a.tokens);
  const int64_t end = list_capacity(*a.list.count);
  const int64_t whole_warps = (vectors + 31) / 32 * 32;
  for (int64_t i = first_row(); i < end; i += kRowsAtOnce) {
    const int64_t row = a.list.row[i];
    for (int64_t v = threadIdx.x % 32; v < whole_warps; v += 32) {
      const bool inside = v < vectors;
      float query[kVector] = {}, grad[kVector] = {}, out[kVector] = {};
      if (inside && row >= 0) {
        load(a.query, row * (a.query_stride / kVector) + v, query);
        load(a.grad_out, row * vectors + v, grad);
        load(a.out, row * vectors + v, out);
      }
      float dot = 0.0F;
#pragma unroll
      for (int k = 0; k < kVector; ++k) dot += grad[k] * out[k];
      dot = head_sum(dot, lanes);
      if (!inside) continue;
      store(a.compact_query, i * vectors + v, query);
      store(a.compact_grad_out, i * vectors + v, grad);
      if (a.compact_grad_q != nullptr) store_zero(a.compact_grad_q, i * vectors + v);
      if (v % lanes == 0) {
        const int64_t head = v / lanes;
        a.compact_delta[head * capacity + i] = dot;
        a.compact_lse[head * capacity + i] =
            row < 0 ? INFINITY : a.logsumexp[head * a.tokens + row] * kLog2E;
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) scatter(ScatterArguments a) {
  const int64_t vectors = a.heads * a.head_dim / kVector;
  const int64_t end = *a.list.count;
  for (int64_t i = first_row(); i < end; i += kRowsAtOnce) {
    const int64_t to = a.list.row[i] * (a.grad_stride / kVector);
    for (int64_t v = threadIdx.x % 32; v < vectors; v += 32) {
      const auto* from = reinterpret_cast<const float4*>(a.compact_grad_q) + 2 * (i * vectors + v);
      const float4 low = from[0], high = from[1];
      float sum[kVector];
      load(a.grad_query, to + v, sum);
      sum[0] += low.x, sum[1] += low.y, sum[2] += low.z, sum[3] += low.w;
      sum[4] += high.x, sum[5] += high.y, sum[6] += high.z, sum[7] += high.w;
      store(a.grad_query, to + v, sum);
    }
  }
}

}  // namespace

void gather_rows(const GatherArguments& a, void* stream) {
  gather<<<kBlocks, kThreads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

void scatter_grad_q(const ScatterArguments& a, void* stream) {
  scatter<<<kBlocks, kThreads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
