// Cross entropy of float32 logits and its gradient: one block a row, the maximum and the sum of
// exponentials in one sweep, the gradient in a second that finds the row in the cache.
#include <math_constants.h>

#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

__global__ void __launch_bounds__(kThreads)
    row_cross_entropy(const float* logits, const int64_t* targets, float* nll,
                      __nv_bfloat16* grad_logits, int64_t vocab) {
  const int64_t row = blockIdx.x;
  const float* x = logits + row * vocab;
  const int64_t target = targets[row];

  float largest = -CUDART_INF_F;
  float sum = 0.0F;
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const float value = x[i];
    if (value > largest) {
      sum *= __expf(largest - value);
      largest = value;
    }
    sum += __expf(value - largest);
  }
  const float row_largest = block_max<kWarps>(largest);
  // A thread without any element has nothing to rescale; a NaN must come through.
  const float mine = sum == 0.0F ? 0.0F : sum * __expf(largest - row_largest);
  const float logsumexp = row_largest + logf(block_sum<kWarps>(mine));
  if (threadIdx.x == 0) nll[row] = target >= 0 ? logsumexp - x[target] : 0.0F;
  if (grad_logits == nullptr) return;
  for (int64_t i = threadIdx.x; i < vocab; i += kThreads) {
    const float grad = __expf(x[i] - logsumexp) - (i == target ? 1.0F : 0.0F);
    grad_logits[row * vocab + i] = __float2bfloat16_rn(target >= 0 ? grad : 0.0F);
  }
}

}  // namespace

void cross_entropy(const float* logits, const int64_t* targets, float* nll, Bf16* grad_logits,
                   int64_t rows, int64_t vocab, void* stream) {
  if (rows == 0) return;
  row_cross_entropy<<<static_cast<unsigned>(rows), kThreads, 0, as_stream(stream)>>>(
      logits, targets, nll, static_cast<__nv_bfloat16*>(grad_logits), vocab);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
