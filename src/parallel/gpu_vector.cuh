// What the kernels of several folders share: sixteen bytes of bfloat16 at a time, and sums over
// warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace swiattn::gpu {

constexpr int kVector = 8;  // bf16 elements of one 16-byte access

// Eight bfloat16, the first in the lower half of x. Not a struct of __nv_bfloat162, whose copying
// is member by member and so four accesses of 4 bytes.
using Pack = uint4;

__device__ inline void unpack(const Pack& pack, float (&out)[kVector]) {
  const uint32_t pairs[kVector / 2] = {pack.x, pack.y, pack.z, pack.w};
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    out[2 * i] = __uint_as_float(pairs[i] << 16);
    out[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000U);
  }
}

__device__ inline uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return __bfloat16_as_ushort(pair.x) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}

__device__ inline Pack pack(const float (&in)[kVector]) {
  return {pack_pair(in[0], in[1]), pack_pair(in[2], in[3]), pack_pair(in[4], in[5]),
          pack_pair(in[6], in[7])};
}

__device__ inline void load(const void* base, int64_t vector, float (&out)[kVector]) {
  unpack(static_cast<const Pack*>(base)[vector], out);
}

__device__ inline void store(void* base, int64_t vector, const float (&in)[kVector]) {
  static_cast<Pack*>(base)[vector] = pack(in);
}

__device__ inline float dot(const Pack& a, const Pack& b) {
  float x[kVector];
  float y[kVector];
  unpack(a, x);
  unpack(b, y);
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kVector; ++i) sum += x[i] * y[i];
  return sum;
}

__device__ inline float round_to_bf16(float value) {
  return __bfloat162float(__float2bfloat16_rn(value));
}

template <class Number>
__device__ inline Number warp_sum(Number value) {
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
