// SwiGLU on the packed projection, forward and backward in one pass each.
#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;

struct Place {
  int64_t gate;  // vector indices into [rows, 2 width]
  int64_t up;
};

__device__ Place place(int64_t index, int64_t vectors) {
  const int64_t row = index / vectors;
  const int64_t gate = row * 2 * vectors + index % vectors;
  return {gate, gate + vectors};
}

__device__ float sigmoid(float x) { return 1.0F / (1.0F + __expf(-x)); }

__global__ void __launch_bounds__(kThreads)
    forward(const Bf16* gate_up, Bf16* out, int64_t total, int64_t vectors) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const Place at = place(index, vectors);
  float gate[kVector];
  float up[kVector];
  load(gate_up, at.gate, gate);
  load(gate_up, at.up, up);
#pragma unroll
  for (int i = 0; i < kVector; ++i) up[i] *= gate[i] * sigmoid(gate[i]);
  store(out, index, up);
}

__global__ void __launch_bounds__(kThreads)
    backward(const Bf16* grad, const Bf16* gate_up, Bf16* grad_gate_up, int64_t total,
             int64_t vectors) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const Place at = place(index, vectors);
  float gate[kVector];
  float up[kVector];
  float g[kVector];
  load(gate_up, at.gate, gate);
  load(gate_up, at.up, up);
  load(grad, index, g);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const float p = sigmoid(gate[i]);
    const float silu = gate[i] * p;
    const float grad_gate = g[i] * up[i] * p * (1.0F + gate[i] * (1.0F - p));
    up[i] = g[i] * silu;
    gate[i] = grad_gate;
  }
  store(grad_gate_up, at.gate, gate);
  store(grad_gate_up, at.up, up);
}

}  // namespace

void swiglu_forward(const Bf16* gate_up, Bf16* out, int64_t rows, int64_t width, void* stream) {
  const int64_t vectors = width / kVector;
  const int64_t total = rows * vectors;
  if (total == 0) return;
  const auto blocks = static_cast<unsigned>((total + kThreads - 1) / kThreads);
  forward<<<blocks, kThreads, 0, as_stream(stream)>>>(gate_up, out, total, vectors);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

void swiglu_backward(const Bf16* grad, const Bf16* gate_up, Bf16* grad_gate_up, int64_t rows,
                     int64_t width, void* stream) {
  const int64_t vectors = width / kVector;
  const int64_t total = rows * vectors;
  if (total == 0) return;
  const auto blocks = static_cast<unsigned>((total + kThreads - 1) / kThreads);
  backward<<<blocks, kThreads, 0, as_stream(stream)>>>(grad, gate_up, grad_gate_up, total, vectors);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
