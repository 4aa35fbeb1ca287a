// Rotary embedding in place: a thread turns eight neighbouring pairs of one head of one token.
#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"
#include "ops/rotary.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    rotate(__nv_bfloat16* x, const float* cosine, const float* sine, int64_t total, int64_t heads,
           int64_t half, int64_t token_stride, float direction) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const int64_t groups = half / kVector;
  const int64_t group = index % groups;
  const int64_t head = index / groups % heads;
  const int64_t token = index / (groups * heads);
  __nv_bfloat16* low = x + token * token_stride + head * 2 * half + group * kVector;
  __nv_bfloat16* high = low + half;
  float a[kVector];
  float b[kVector];
  load(low, 0, a);
  load(high, 0, b);
  const int64_t angles = token * half + group * kVector;
  turn_pairs(cosine + angles, sine + angles, direction, a, b);
  store(low, 0, a);
  store(high, 0, b);
}

}  // namespace

void apply_rotary(Bf16* x, const float* cosine, const float* sine, int64_t tokens, int64_t heads,
                  int64_t head_dim, int64_t token_stride, float direction, void* stream) {
  const int64_t total = tokens * heads * (head_dim / 2 / kVector);
  if (total == 0) return;
  const auto blocks = static_cast<unsigned>((total + kThreads - 1) / kThreads);
  rotate<<<blocks, kThreads, 0, as_stream(stream)>>>(static_cast<__nv_bfloat16*>(x), cosine, sine,
                                                     total, heads, head_dim / 2, token_stride,
                                                     direction);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
