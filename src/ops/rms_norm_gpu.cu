// RMSNorm, with the router's dot product where a layer has one. Bound by memory: every row is read
// once, kept in registers between the sums and what needs them, and written once. 4 bytes an
// element forward (x, normed) and 8 backward (both gradients, x, grad_x): 91 and 182 us at 2.95
// TB/s for 32,768 rows of 2048.
#include <algorithm>

#include "base/cuda_check.h"
#include "ops/column_sum.cuh"
#include "ops/gpu_kernels.h"
#include "ops/row_threads.cuh"

namespace swiattn::gpu {
namespace {

// A block takes threadIdx.y rows, so that narrow ones fill it too.
template <int kSlots>
__global__ void __launch_bounds__(kMaxRowThreads) forward(RmsNormForwardArguments a) {
  __shared__ WarpValues squares_of_warp, dot_of_warp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  // Threads behind the last row, or behind their row's end, have no vector but take part in sums.
  const int64_t vectors = row < a.rows ? a.width / kVector : 0;
  const int64_t first = row * vectors;
  float values[kSlots][kVector];
  float squares = 0.0F;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int64_t v = vector_of(slot);
    if (v >= vectors) break;
    load(a.x, first + v, values[slot]);
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares += values[slot][i] * values[slot][i];
  }
  const float inverse =
      rsqrtf(row_sum(squares, squares_of_warp) / static_cast<float>(a.width) + a.eps);
  if (threadIdx.x == 0 && vectors > 0) a.inverse_rms[row] = inverse;
  float dot = 0.0F;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int64_t v = vector_of(slot);
    if (v >= vectors) break;
    float normed[kVector];
    load(a.weight, v, normed);
#pragma unroll
    for (int i = 0; i < kVector; ++i) normed[i] *= round_to_bf16(values[slot][i] * inverse);
    store(a.normed, first + v, normed);
    if (a.router_weight == nullptr) continue;
    float router[kVector];
    load_floats(a.router_weight + v * kVector, router);
#pragma unroll
    for (int i = 0; i < kVector; ++i) dot += round_to_bf16(normed[i]) * router[i];
  }
  if (a.router_weight == nullptr) return;
  dot = row_sum(dot, dot_of_warp);
  if (threadIdx.x == 0 && vectors > 0) a.logits[row] = dot;
}

// What a thread reads of a row, packed.
template <int kSlots>
struct Row {
  Pack x[kSlots];
  Pack grad_normed[kSlots];
  Pack grad_residual[kSlots];
  float inverse_rms;
  float grad_logit;
};

template <int kSlots, bool kRouter>
__device__ Row<kSlots> load_row(const RmsNormBackwardArguments& a, int64_t row) {
  const int64_t vectors = a.width / kVector;
  const auto pack = [&](const Bf16* matrix, int64_t v) {
    return static_cast<const Pack*>(matrix)[row * vectors + v];
  };
  Row<kSlots> result = {};
  result.inverse_rms = a.inverse_rms[row];
  if (kRouter) result.grad_logit = a.grad_logits[row];
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int64_t v = vector_of(slot);
    if (v >= vectors) break;
    result.x[slot] = pack(a.x, v);
    result.grad_normed[slot] = pack(a.grad_normed, v);
    if (a.grad_residual != nullptr) result.grad_residual[slot] = pack(a.grad_residual, v);
  }
  return result;
}

// The router's part of one vector: its gradient joins `grad`, the weight's the column sums.
__device__ void add_router(const float* router_weight, float grad_logit,
                           const float (&unit)[kVector], const float (&weight)[kVector],
                           float (&grad)[kVector], float (&sum)[kVector]) {
  float router[kVector];
  load_floats(router_weight, router);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    grad[i] += grad_logit * router[i];
    sum[i] += grad_logit * round_to_bf16(round_to_bf16(unit[i]) * weight[i]);
  }
}

// grad_x = (g w - u mean(g w u)) / rms + grad_residual with u = x / rms and g = grad_normed + ds
// w_R, which is not rounded. A block walks over its rows and has the next one under way while it
// works on this: a block sum a row would otherwise leave the memory idle.
// Nothing else is read from global memory in the loop, since it might wait behind that row: each
// thread keeps its columns of the weight in registers, and those of the router's in shared memory.
template <int kSlots, bool kRouter>
__global__ void __launch_bounds__(max_row_threads(kSlots), kSlots == 1 ? (kRouter ? 2 : 3) : 1)
    backward(RmsNormBackwardArguments a) {
  __shared__ WarpValues dot_of_warp[2];
  constexpr int kMaxWidth = max_row_threads(kSlots) * kSlots * kVector;
  __shared__ alignas(32) float router_weight[kRouter ? kMaxWidth : kVector];
  const int64_t vectors = a.width / kVector;
  Pack weight[kSlots] = {};
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int64_t v = vector_of(slot);
    if (v >= vectors) break;
    weight[slot] = static_cast<const Pack*>(a.weight)[v];
    if (!kRouter) continue;
    float columns[kVector];
    load_floats(a.router_weight + v * kVector, columns);
    store_floats(router_weight + v * kVector, columns);
  }
  ColumnSums<kSlots> weight_sums, router_sums;
  Row<kSlots> next = load_row<kSlots, kRouter>(a, blockIdx.x);
  int turn = 0;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const Row<kSlots> now = next;
    if (row + gridDim.x < a.rows) next = load_row<kSlots, kRouter>(a, row + gridDim.x);
    float unit[kSlots][kVector], grad[kSlots][kVector];
    float dot = 0.0F;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t v = vector_of(slot);
      if (v >= vectors) break;
      float w[kVector];
      unpack(weight[slot], w);
      unpack(now.x[slot], unit[slot]);
      unpack(now.grad_normed[slot], grad[slot]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) unit[slot][i] *= now.inverse_rms;
      if (kRouter) {
        add_router(router_weight + v * kVector, now.grad_logit, unit[slot], w, grad[slot],
                   router_sums.sum[slot]);
      }
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        // The forward multiplied the weight by the rounded row.
        weight_sums.sum[slot][i] += grad[slot][i] * round_to_bf16(unit[slot][i]);
        grad[slot][i] *= w[i];
        dot += grad[slot][i] * unit[slot][i];
      }
    }
    const float mean = row_sum(dot, dot_of_warp[turn]) / static_cast<float>(a.width);
    turn = 1 - turn;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t v = vector_of(slot);
      if (v >= vectors) break;
      float out[kVector];
      unpack(now.grad_residual[slot], out);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        out[i] += (grad[slot][i] - unit[slot][i] * mean) * now.inverse_rms;
      }
      store(a.grad_x, row * vectors + v, out);
    }
  }
  if (a.grad_weight.total != nullptr) weight_sums.write(a.grad_weight.partial, a.width);
  if (kRouter && a.grad_router.total != nullptr) router_sums.write(a.grad_router.partial, a.width);
}

using Backward = void (*)(RmsNormBackwardArguments);

Backward backward_kernel(int slots, bool with_router) {
  if (slots == 1) return with_router ? backward<1, true> : backward<1, false>;
  return with_router ? backward<2, true> : backward<2, false>;
}

}  // namespace

void rms_norm_forward(const RmsNormForwardArguments& a, void* stream) {
  if (a.rows == 0) return;
  const RowThreads row = row_threads(a.width);
  const dim3 threads(row.threads, row.threads <= 128 ? 256 / row.threads : 1);
  const auto blocks = static_cast<unsigned>((a.rows + threads.y - 1) / threads.y);
  const auto kernel = row.slots == 1 ? forward<1> : forward<2>;
  kernel<<<blocks, threads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

int64_t rms_norm_backward_blocks(int64_t rows, int64_t width, bool with_router) {
  const RowThreads row = row_threads(width);
  return std::min(blocks_at_once(backward_kernel(row.slots, with_router), row.threads), rows);
}

void rms_norm_backward(const RmsNormBackwardArguments& a, int64_t blocks, void* stream) {
  const bool with_router = a.router_weight != nullptr;
  const RowThreads row = row_threads(a.width);
  backward_kernel(
      row.slots,
      with_router)<<<static_cast<unsigned>(blocks), row.threads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
  add_partial_sums(a.grad_weight, blocks, a.width, as_stream(stream));
  if (with_router) add_partial_sums(a.grad_router, blocks, a.width, as_stream(stream));
}

}  // namespace swiattn::gpu
