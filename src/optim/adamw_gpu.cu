// One pass over a span: reads gradient, moments and master, writes moments, master and the bf16
// copy that the next forward reads. 30 bytes an element, bound by memory.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "base/cuda_check.h"
#include "optim/adamw_kernel.h"

namespace swiattn {
namespace {

constexpr int kThreads = 256;

struct Corrections {
  float factor;
  float first;
  float second;
};

__device__ Corrections corrections(const AdamWConstants& c, const double* factor,
                                   const int64_t* updates) {
  const double n = static_cast<double>(*updates);
  return {static_cast<float>(*factor), static_cast<float>(1.0 - pow(double(c.beta1), n)),
          static_cast<float>(1.0 - pow(double(c.beta2), n))};
}

__global__ void update(AdamWSpan span, AdamWConstants c, const double* factor, const double* apply,
                       const int64_t* updates) {
  if (*apply == 0.0) return;
  __shared__ Corrections shared;
  if (threadIdx.x == 0) shared = corrections(c, factor, updates);
  __syncthreads();
  const Corrections k = shared;
  auto* copy = static_cast<__nv_bfloat16*>(span.compute_bf16);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < span.count;
       i += stride) {
    const float g = k.factor * span.gradient[i];
    const float m = c.beta1 * span.moment1[i] + (1.0F - c.beta1) * g;
    const float v = c.beta2 * span.moment2[i] + (1.0F - c.beta2) * g * g;
    span.moment1[i] = m;
    span.moment2[i] = v;
    const float step = (m / k.first) / (sqrtf(v / k.second) + c.eps);
    const float p = span.master[i];
    const float updated = p - span.learning_rate * (step + span.decay * p);
    span.master[i] = updated;
    if (copy != nullptr) copy[i] = __float2bfloat16_rn(updated);
  }
}

}  // namespace

void adamw_on_gpu(const AdamWSpan& span, const AdamWConstants& constants, const double* factor,
                  const double* apply, const int64_t* updates, void* stream) {
  const int64_t blocks = (span.count + kThreads * 4 - 1) / (kThreads * 4);
  const int grid = static_cast<int>(blocks < 132 * 32 ? blocks : 132 * 32);
  update<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(span, constants, factor, apply,
                                                                   updates);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn
