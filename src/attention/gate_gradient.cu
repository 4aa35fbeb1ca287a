// The straight-through gradient of the gate: a warp a token, each operand read once. Bound by
// memory, 4 bytes an element of [T, Hq, D].
#include "attention/attention_kernels.h"
#include "base/cuda_check.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kTokensPerBlock = kThreads / 32;
constexpr int kBatch = 4;  // vectors of each operand that a thread asks for at once

// This lane's part of <grad_out, difference> of one token.
__device__ float token_dot(const GateGradientArguments& a, int64_t token) {
  const auto vectors = static_cast<unsigned>(a.heads * a.head_dim / kVector);
  const auto* grad_out = static_cast<const Pack*>(a.grad_out) + token * vectors;
  const auto* difference = static_cast<const Pack*>(a.difference) + token * vectors;
  float sum = 0.0F;
  for (unsigned begin = threadIdx.x % 32; begin < vectors; begin += 32 * kBatch) {
    Pack x[kBatch];
    Pack y[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const unsigned v = begin + 32 * i;
      x[i] = v < vectors ? grad_out[v] : Pack{};
      y[i] = v < vectors ? difference[v] : Pack{};
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) sum += dot(x[i], y[i]);
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads) contract(GateGradientArguments a) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokensPerBlock + threadIdx.x / 32;
  if (token >= a.tokens) return;
  const bool differs = a.position[token] >= a.window && (a.both == nullptr || a.both[token]);
  const float sum = warp_sum(differs ? token_dot(a, token) : 0.0F);
  if (threadIdx.x % 32 == 0) a.gate_gradient[token] = sum;
}

}  // namespace

void gate_gradient(const GateGradientArguments& a, void* stream) {
  if (a.tokens == 0) return;
  const auto blocks = static_cast<unsigned>((a.tokens + kTokensPerBlock - 1) / kTokensPerBlock);
  contract<<<blocks, kThreads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
