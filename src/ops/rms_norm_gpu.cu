// Residual addition and RMSNorm. Bound by memory: every row is read once, kept in registers between
// the sum of squares and the scaling, and written once.
#include "base/cuda_check.h"
#include "ops/column_sum.cuh"
#include "ops/gpu_kernels.h"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = kColumnSumThreads;
constexpr int kWarps = kThreads / 32;

template <int kSlots>
__global__ void __launch_bounds__(kThreads) forward(RmsNormForwardArguments a) {
  const int64_t vectors = a.width / kVector;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * vectors;
  float values[kSlots][kVector];
  float squares = 0.0F;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int64_t v = slot * kThreads + threadIdx.x;
    if (v >= vectors) break;
    load(a.x, first + v, values[slot]);
    if (a.delta != nullptr) {
      float delta[kVector];
      load(a.delta, first + v, delta);
#pragma unroll
      for (int i = 0; i < kVector; ++i) values[slot][i] = round_to_bf16(values[slot][i] + delta[i]);
      store(a.residual, first + v, values[slot]);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares += values[slot][i] * values[slot][i];
  }
  const float inverse = rsqrtf(block_sum<kWarps>(squares) / static_cast<float>(a.width) + a.eps);
  if (threadIdx.x == 0) a.inverse_rms[blockIdx.x] = inverse;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int64_t v = slot * kThreads + threadIdx.x;
    if (v >= vectors) break;
    float weight[kVector];
    load(a.weight, v, weight);
#pragma unroll
    for (int i = 0; i < kVector; ++i) weight[i] *= round_to_bf16(values[slot][i] * inverse);
    store(a.normed, first + v, weight);
  }
}

// grad_x = (g w - u mean(g w u)) / rms + grad_residual with u = x / rms.
template <int kSlots>
__global__ void __launch_bounds__(kThreads) backward(RmsNormBackwardArguments a) {
  const int64_t vectors = a.width / kVector;
  ColumnSums<kSlots> columns;
  for (int64_t row = blockIdx.x; row < a.rows; row += kColumnSumBlocks) {
    const int64_t first = row * vectors;
    const float inverse = a.inverse_rms[row];
    float unit[kSlots][kVector];
    float grad[kSlots][kVector];  // g w
    float dot = 0.0F;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t v = slot * kThreads + threadIdx.x;
      if (v >= vectors) break;
      float weight[kVector];
      load(a.residual, first + v, unit[slot]);
      load(a.grad_normed, first + v, grad[slot]);
      load(a.weight, v, weight);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        unit[slot][i] *= inverse;
        columns.sum[slot][i] += grad[slot][i] * round_to_bf16(unit[slot][i]);
        grad[slot][i] *= weight[i];
        dot += grad[slot][i] * unit[slot][i];
      }
    }
    const float mean = block_sum<kWarps>(dot) / static_cast<float>(a.width);
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t v = slot * kThreads + threadIdx.x;
      if (v >= vectors) break;
      float out[kVector] = {};
      if (a.grad_residual != nullptr) load(a.grad_residual, first + v, out);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        out[i] += (grad[slot][i] - unit[slot][i] * mean) * inverse;
      }
      store(a.grad_x, first + v, out);
    }
  }
  if (a.partial != nullptr) columns.write(a.partial, a.width);
}

}  // namespace

void rms_norm_forward(const RmsNormForwardArguments& a, void* stream) {
  if (a.rows == 0) return;
  with_slots(a.width, [&](auto slots) {
    forward<decltype(slots)::value>
        <<<static_cast<unsigned>(a.rows), kThreads, 0, as_stream(stream)>>>(a);
  });
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

void rms_norm_backward(const RmsNormBackwardArguments& a, void* stream) {
  if (a.rows == 0) return;
  with_slots(a.width, [&](auto slots) {
    backward<decltype(slots)::value><<<kColumnSumBlocks, kThreads, 0, as_stream(stream)>>>(a);
  });
  SWIATTN_CHECK_CUDA(cudaGetLastError());
  if (a.partial != nullptr) add_partial_sums(a.partial, a.grad_weight, a.width, as_stream(stream));
}

}  // namespace swiattn::gpu
