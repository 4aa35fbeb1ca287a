// One pass over the output gradients for what the backward needs of every row: a warp a token, each
// operand read once.
#include <cuda_runtime.h>

#include "attention/listed_kernels.h"
#include "attention/softmax_rows.cuh"
#include "base/cuda_check.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = kThreads / 32;  // of a block; kListTile is a multiple
constexpr int kBatch = 4;               // vectors of each operand that a thread asks for at once

// Writes <grad_out, out> of this warp's token to delta[head]; returns this lane's part of
// <grad_out, difference>. A head is `lanes` lanes wide.
__device__ float contract(const RowStatisticsArguments& a, int64_t token, float* delta) {
  const auto vectors = static_cast<int>(a.heads * a.head_dim / kVector);
  const auto lanes = static_cast<int>(a.head_dim / kVector);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto* grad_out = static_cast<const Pack*>(a.grad_out) + token * vectors;
  const auto* out = static_cast<const Pack*>(a.out) + token * vectors;
  const bool gate = a.gate_gradient != nullptr && a.position[token] >= a.window &&
                    (a.both == nullptr || a.both[token]);
  const auto* difference =
      gate ? static_cast<const Pack*>(a.difference) + token * vectors : nullptr;
  float gate_sum = 0.0F;
  for (int begin = 0; begin < vectors; begin += 32 * kBatch) {
    Pack x[kBatch];
    Pack y[kBatch];
    Pack z[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int v = begin + 32 * i + lane;
      const bool inside = v < vectors;
      x[i] = inside ? grad_out[v] : Pack{};
      y[i] = inside ? out[v] : Pack{};
      z[i] = inside && gate ? difference[v] : Pack{};
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int v = begin + 32 * i + lane;
      float sum = dot(x[i], y[i]);
      for (int offset = lanes / 2; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffU, sum, offset);
      }
      if (v < vectors && v % lanes == 0) delta[v / lanes * kTokens] = sum;
      if (gate) gate_sum += dot(x[i], z[i]);
    }
  }
  return gate_sum;
}

__global__ void __launch_bounds__(kThreads) row_statistics(RowStatisticsArguments a) {
  extern __shared__ float delta[];  // [heads, kTokens]
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  if (first + warp < a.tokens) {
    const float gate = warp_sum(contract(a, first + warp, delta + warp));
    if (threadIdx.x % 32 == 0 && a.gate_gradient != nullptr) a.gate_gradient[first + warp] = gate;
  }
  __syncthreads();
  const int64_t capacity = list_capacity(a.tokens);
  for (int i = static_cast<int>(threadIdx.x); i < a.heads * kTokens; i += kThreads) {
    const int64_t head = i / kTokens;
    const int64_t token = first + i % kTokens;
    const bool inside = token < a.tokens;
    a.delta[head * capacity + token] = inside ? delta[i] : 0.0F;
    a.lse[head * capacity + token] =
        inside ? a.logsumexp[head * a.tokens + token] * kLog2E : INFINITY;
  }
}

}  // namespace

void row_statistics(const RowStatisticsArguments& a, void* stream) {
  if (a.tokens == 0) return;
  const auto blocks = static_cast<unsigned>(list_capacity(a.tokens) / kTokens);
  const size_t bytes = static_cast<size_t>(a.heads) * kTokens * sizeof(float);
  row_statistics<<<blocks, kThreads, bytes, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
