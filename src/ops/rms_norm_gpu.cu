// RMSNorm, with the router's dot product where a layer has one. Bound by memory: every row is read
// once, kept in registers between the sums and what needs them, and written once. 4 bytes an
// element forward (x, normed) and 8 backward (both gradients, x, grad_x): 91 and 182 us at 2.95
// TB/s for 32,768 rows of 2048.
#include <algorithm>

#include "base/cuda_check.h"
#include "ops/column_sum.cuh"
#include "ops/gpu_kernels.h"
#include "ops/row_threads.cuh"
#include "parallel/gpu_occupancy.cuh"

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

template <int kSlots>
using Values = float[kSlots][kVector];

// A thread's columns in the backward: what it keeps of the weights from row to row, and its sums
// over the rows. Nothing but rows is read from global memory once the first row is under way, since
// it might wait behind the next one: the norm's weight stays in registers, the router's in shared
// memory.
template <int kSlots, bool kRouter>
class Columns {
 public:
  static constexpr int kMaxWidth = max_row_threads(kSlots) * kSlots * kVector;
  using RouterWeight = float[kRouter ? kMaxWidth : kVector];

  __device__ Columns(const RmsNormBackwardArguments& a, RouterWeight& router_weight)
      : a_(a), vectors_(a.width / kVector), router_weight_(router_weight) {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t v = vector_of(slot);
      if (v >= vectors_) break;
      weight_[slot] = static_cast<const Pack*>(a.weight)[v];
      if (!kRouter) continue;
      float columns[kVector];
      load_floats(a.router_weight + v * kVector, columns);
      store_floats(router_weight_ + v * kVector, columns);
    }
  }

  // Adds a row to the sums. Gives its u and g w; returns this thread's part of <g w, u>.
  __device__ float add(const Row<kSlots>& row, Values<kSlots>& unit, Values<kSlots>& grad) {
    float dot = 0.0F;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t v = vector_of(slot);
      if (v >= vectors_) break;
      float weight[kVector];
      unpack(weight_[slot], weight);
      unpack(row.x[slot], unit[slot]);
      unpack(row.grad_normed[slot], grad[slot]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) unit[slot][i] *= row.inverse_rms;
      if (kRouter) add_router(slot, row.grad_logit, unit[slot], weight, grad[slot]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        // The forward multiplied the weight by the rounded row.
        weight_sums_.sum[slot][i] += grad[slot][i] * round_to_bf16(unit[slot][i]);
        grad[slot][i] *= weight[i];
        dot += grad[slot][i] * unit[slot][i];
      }
    }
    return dot;
  }

  __device__ void write_sums() const {
    if (a_.grad_weight.total != nullptr) weight_sums_.write(a_.grad_weight.partial, a_.width);
    if (kRouter && a_.grad_router.total != nullptr) {
      router_sums_.write(a_.grad_router.partial, a_.width);
    }
  }

 private:
  // The router's part of one vector: its gradient joins `grad`, the weight's the sums.
  __device__ void add_router(int slot, float grad_logit, const float (&unit)[kVector],
                             const float (&weight)[kVector], float (&grad)[kVector]) {
    float router[kVector];
    load_floats(router_weight_ + vector_of(slot) * kVector, router);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      grad[i] += grad_logit * router[i];
      router_sums_.sum[slot][i] += grad_logit * round_to_bf16(round_to_bf16(unit[i]) * weight[i]);
    }
  }

  const RmsNormBackwardArguments& a_;
  const int64_t vectors_;
  float* const router_weight_;  // in shared memory
  Pack weight_[kSlots] = {};
  ColumnSums<kSlots> weight_sums_, router_sums_;
};

// grad_x = (g w - u mean(g w u)) / rms + grad_residual with u = x / rms and g = grad_normed + ds
// w_R, which is not rounded. A block walks over its rows and has the next one under way while it
// works on this: a block sum a row would otherwise leave the memory idle.
template <int kSlots, bool kRouter>
__global__ void __launch_bounds__(max_row_threads(kSlots), kSlots == 1 ? (kRouter ? 2 : 3) : 1)
    backward(RmsNormBackwardArguments a) {
  __shared__ WarpValues dot_of_warp[2];
  __shared__ alignas(32) typename Columns<kSlots, kRouter>::RouterWeight router_weight;
  Columns<kSlots, kRouter> columns(a, router_weight);
  Row<kSlots> next = load_row<kSlots, kRouter>(a, blockIdx.x);
  int turn = 0;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const Row<kSlots> now = next;
    if (row + gridDim.x < a.rows) next = load_row<kSlots, kRouter>(a, row + gridDim.x);
    Values<kSlots> unit, grad;
    const float dot = columns.add(now, unit, grad);
    const float mean = row_sum(dot, dot_of_warp[turn]) / static_cast<float>(a.width);
    turn = 1 - turn;
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int64_t v = vector_of(slot), vectors = a.width / kVector;
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
  columns.write_sums();
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
