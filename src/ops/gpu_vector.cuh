// Sixteen bytes of bfloat16 at a time, and sums over warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace swiattn::gpu {

constexpr int kVector = 8;  // bf16 elements of one 16-byte access

struct alignas(16) Pack {
  __nv_bfloat162 pair[kVector / 2];
};

__device__ inline void load(const void* base, int64_t vector, float (&out)[kVector]) {
  const Pack pack = static_cast<const Pack*>(base)[vector];
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    const float2 value = __bfloat1622float2(pack.pair[i]);
    out[2 * i] = value.x;
    out[2 * i + 1] = value.y;
  }
}

__device__ inline void store(void* base, int64_t vector, const float (&in)[kVector]) {
  Pack pack;
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    pack.pair[i] = __floats2bfloat162_rn(in[2 * i], in[2 * i + 1]);
  }
  static_cast<Pack*>(base)[vector] = pack;
}

__device__ inline float round_to_bf16(float value) {
  return __bfloat162float(__float2bfloat16_rn(value));
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, offset));
  }
  return value;
}

// The sum over the block's kWarps warps, on every thread. May be called again at once.
template <int kWarps>
__device__ inline float block_sum(float value) {
  __shared__ float shared[kWarps];
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0.0F;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) total += shared[i];
  return total;
}

template <int kWarps>
__device__ inline float block_max(float value) {
  __shared__ float shared[kWarps];
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float result = shared[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) result = fmaxf(result, shared[i]);
  return result;
}

inline cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace swiattn::gpu
