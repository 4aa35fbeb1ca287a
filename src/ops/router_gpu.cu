// The router's dot product and its gradients, one pass over the rows each.
#include "base/cuda_check.h"
#include "ops/column_sum.cuh"
#include "ops/gpu_kernels.h"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = kColumnSumThreads;
constexpr int kRowsPerBlock = kThreads / 32;  // a warp a row

__global__ void __launch_bounds__(kThreads)
    forward(const Bf16* hidden, const float* weight, float* logits, int64_t rows, int64_t width) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / 32;
  if (row >= rows) return;
  const int64_t vectors = width / kVector;
  float sum = 0.0F;
  for (int64_t v = threadIdx.x % 32; v < vectors; v += 32) {
    float values[kVector];
    load(hidden, row * vectors + v, values);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum += values[i] * weight[v * kVector + i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) logits[row] = sum;
}

template <int kSlots>
__global__ void __launch_bounds__(kThreads) backward(RouterBackwardArguments a) {
  const int64_t vectors = a.width / kVector;
  ColumnSums<kSlots> columns;
  for (int64_t row = blockIdx.x; row < a.rows; row += kColumnSumBlocks) {
    const float grad_logit = a.grad_logits[row];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t v = slot * kThreads + threadIdx.x;
      if (v >= vectors) break;
      float hidden[kVector];
      float grad[kVector];
      load(a.hidden, row * vectors + v, hidden);
      load(a.grad_hidden, row * vectors + v, grad);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        columns.sum[slot][i] += grad_logit * hidden[i];
        grad[i] += grad_logit * a.weight[v * kVector + i];
      }
      store(a.grad_hidden, row * vectors + v, grad);
    }
  }
  if (a.partial != nullptr) columns.write(a.partial, a.width);
}

}  // namespace

void router_forward(const Bf16* hidden, const float* weight, float* logits, int64_t rows,
                    int64_t width, void* stream) {
  if (rows == 0) return;
  const auto blocks = static_cast<unsigned>((rows + kRowsPerBlock - 1) / kRowsPerBlock);
  forward<<<blocks, kThreads, 0, as_stream(stream)>>>(hidden, weight, logits, rows, width);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

void router_backward(const RouterBackwardArguments& a, void* stream) {
  if (a.rows == 0) return;
  with_slots(a.width, [&](auto slots) {
    backward<decltype(slots)::value><<<kColumnSumBlocks, kThreads, 0, as_stream(stream)>>>(a);
  });
  SWIATTN_CHECK_CUDA(cudaGetLastError());
  if (a.partial != nullptr) add_partial_sums(a.partial, a.grad_weight, a.width, as_stream(stream));
}

}  // namespace swiattn::gpu
