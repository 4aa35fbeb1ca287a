// Cross entropy of float32 logits and its gradient: one block a row, the maximum and the sum of
// exponentials in one sweep, the gradient in a second. With one block on a multiprocessor the rows
// under way, 26 MB of a vocabulary of 49,152, stay in an H100's second-level cache until then; the
// second sweep begins where the first ended, for rows that do not fit.

#include <cmath>

#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kFour = 4;
constexpr int kBatch = 4;  // fours that a thread asks for at once

// The running maximum of some values and the sum of their exponentials relative to it.
struct Exponentials {
  float largest = -INFINITY;
  float sum = 0.0F;

  template <int kCount>
  __device__ void add(const float (&values)[kCount]) {
    float now = largest;
#pragma unroll
    for (float value : values) now = fmaxf(now, value);
    if (now > largest) {
      sum *= __expf(largest - now);
      largest = now;
    }
#pragma unroll
    for (float value : values) sum += __expf(value - largest);
  }
};

// Calls each(index of the first of four elements, the four) for this thread's share of the row's
// whole fours, kBatch of them at a time; the last ones first when kBackwards.
template <bool kBackwards, class Each>
__device__ void for_each_four(const float* x, int64_t vocab, const Each& each) {
  const auto* fours = reinterpret_cast<const float4*>(x);
  const auto count = static_cast<int>(vocab / kFour);
  constexpr int kStride = kThreads * kBatch;
  const int steps = (count + kStride - 1) / kStride;
  for (int step = 0; step < steps; ++step) {
    const int begin = (kBackwards ? steps - 1 - step : step) * kStride + threadIdx.x;
    float4 batch[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = begin + i * kThreads;
      if (at < count) batch[i] = fours[at];
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = begin + i * kThreads;
      if (at < count) each(at * kFour, {batch[i].x, batch[i].y, batch[i].z, batch[i].w});
    }
  }
}

struct Gradient {
  float logsumexp;
  int64_t target;  // negative: none

  __device__ float at(int64_t column, float logit) const {
    const float grad = __expf(logit - logsumexp) - (column == target ? 1.0F : 0.0F);
    return target >= 0 ? grad : 0.0F;
  }
};

// kFours: rows begin at multiples of 16 bytes.
template <bool kFours>
__global__ void __launch_bounds__(kThreads, 1)
    row_cross_entropy(const float* logits, const int64_t* targets, float* nll,
                      __nv_bfloat16* grad_logits, int64_t vocab) {
  const int64_t row = blockIdx.x;
  const float* x = logits + row * vocab;
  const int64_t target = targets[row];

  Exponentials mine;
  if (kFours) {
    for_each_four<false>(x, vocab, [&](int, const float(&values)[kFour]) { mine.add(values); });
  } else {
    for (int64_t i = threadIdx.x; i < vocab; i += kThreads) mine.add({x[i]});
  }
  const float largest = block_max<kWarps>(mine.largest);
  // A thread without any element has nothing to rescale; a NaN must come through.
  const float sum = mine.sum == 0.0F ? 0.0F : mine.sum * __expf(mine.largest - largest);
  const Gradient gradient{largest + logf(block_sum<kWarps>(sum)), target};
  if (threadIdx.x == 0) nll[row] = target >= 0 ? gradient.logsumexp - x[target] : 0.0F;
  if (grad_logits == nullptr) return;
  __nv_bfloat16* const to = grad_logits + row * vocab;
  if (kFours) {
    for_each_four<true>(x, vocab, [&](int first, const float(&values)[kFour]) {
      *reinterpret_cast<uint2*>(to + first) = {
          pack_pair(gradient.at(first, values[0]), gradient.at(first + 1, values[1])),
          pack_pair(gradient.at(first + 2, values[2]), gradient.at(first + 3, values[3]))};
    });
  } else {
    for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
      to[i] = __float2bfloat16_rn(gradient.at(i, x[i]));
    }
  }
}

}  // namespace

void cross_entropy(const float* logits, const int64_t* targets, float* nll, Bf16* grad_logits,
                   int64_t rows, int64_t vocab, void* stream) {
  if (rows == 0) return;
  const bool aligned = reinterpret_cast<uintptr_t>(logits) % sizeof(float4) == 0 &&
                       reinterpret_cast<uintptr_t>(grad_logits) % sizeof(uint2) == 0;
  const auto kernel =
      aligned && vocab % kFour == 0 ? row_cross_entropy<true> : row_cross_entropy<false>;
  kernel<<<static_cast<unsigned>(rows), kThreads, 0, as_stream(stream)>>>(
      logits, targets, nll, static_cast<__nv_bfloat16*>(grad_logits), vocab);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
