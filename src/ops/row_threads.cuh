// How a row of bfloat16 is spread over threads: one or two vectors a thread, blockDim.x threads
// apart, so that warps are whole and few threads idle whatever the width.
#pragma once

#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {

constexpr int kWarp = 32;
constexpr int kMaxRowThreads = 512;
constexpr int kMaxSlots = 2;

// The most threads of a row with this many vectors each.
constexpr int max_row_threads(int slots) {
  return slots == 1 ? kMaxRowThreads / 2 : kMaxRowThreads;
}

struct RowThreads {
  int slots;    // vectors of a thread
  int threads;  // of a row, a multiple of a warp
};

// Rows of at most 2048 elements have a vector a thread, at most 256 threads then; wider ones, up to
// 8192, have two.
inline RowThreads row_threads(int64_t width) {
  const int64_t vectors = width / kVector;
  const int slots = vectors <= max_row_threads(1) ? 1 : kMaxSlots;
  const int64_t threads = (vectors + slots - 1) / slots;
  return {slots, static_cast<int>((threads + kWarp - 1) / kWarp * kWarp)};
}

// Which vector of its row a thread holds in a slot; it may lie behind the row's end.
__device__ inline int64_t vector_of(int slot) {
  return static_cast<int64_t>(slot) * blockDim.x + threadIdx.x;
}

// The warps' values of one sum over the rows of a block. A kernel that sums again and again takes
// two of them in turn: then one synchronisation a sum is enough.
using WarpValues = float[kMaxRowThreads / kWarp];

// The sum over this thread's row (its blockDim.x threads), on every one of them. All threads of the
// block call it together.
__device__ inline float row_sum(float value, WarpValues& values) {
  value = warp_sum(value);
  const int warps = blockDim.x / kWarp;
  if (warps == 1) return value;
  const int first = threadIdx.y * warps;
  if (threadIdx.x % kWarp == 0) values[first + threadIdx.x / kWarp] = value;
  __syncthreads();
  float total = 0.0F;
  for (int warp = 0; warp < warps; ++warp) total += values[first + warp];
  return total;
}

// Eight float32 at a multiple of 32 bytes.
__device__ inline void load_floats(const float* from, float (&out)[kVector]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  const float values[kVector] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < kVector; ++i) out[i] = values[i];
}

__device__ inline void store_floats(float* to, const float (&in)[kVector]) {
  reinterpret_cast<float4*>(to)[0] = {in[0], in[1], in[2], in[3]};
  reinterpret_cast<float4*>(to)[1] = {in[4], in[5], in[6], in[7]};
}

}  // namespace swiattn::gpu
