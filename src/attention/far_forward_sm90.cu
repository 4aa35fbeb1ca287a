// Attention of listed rows to their keys on Hopper: a block owns 128 listed rows of one query head
// and walks over their keys, 128 at a time. Two warpgroups compute, each for 64 of the rows; a
// third one copies. The softmax is the running one: with the largest score so far, m, the sums
// l = sum exp(s - m) and o = sum exp(s - m) v are rescaled whenever m grows. The scores of a step
// are formed while the values of the step before are summed.
#include <cuda_runtime.h>

#include "attention/listed_row_walk.cuh"
#include "attention/listed_rows.h"
#include "attention/tensor_map.h"
#include "attention/warpgroup_tile.cuh"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

constexpr float kLn2 = 0.6931471805599453F;

template <int kHeadDim>
struct Shared {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  BoxRow query[kBoxes][kWalkRows];
  KeyStages<kHeadDim> keys;
};

struct Maps {
  CUtensorMap query, key, value;
};

// Over the four threads that share a row.
__device__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffU, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffU, x, 2));
}
__device__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffU, x, 1);
  return x + __shfl_xor_sync(0xffffffffU, x, 2);
}

template <int kHeadDim>
class Worker {
 public:
  __device__ Worker(Shared<kHeadDim>& shared, const ListedForwardArguments& a, const RowWalk& walk)
      : shared_(shared), a_(a), walk_(walk), rows_(a.operands, walk) {}

  __device__ void run() {
    shared_.keys.wait_for_rows();
    float scores[kWalkKeys / 2];
    shared_.keys.wait(0);
    multiply_scores(scores, 0);
    hopper::wait_products<0>();
    uint32_t left[kWalkKeys / 16][4];
    rescale(softmax(scores, 0));
    pack_operand(scores, left);
    for (int step = 1; step < walk_.steps; ++step) {
      shared_.keys.wait(step);
      multiply_scores(scores, step);
      sum_values(left, step - 1);
      hopper::wait_products<1>();
      const float2 factor = softmax(scores, step);
      hopper::wait_products<0>();
      shared_.keys.release(step - 1);
      rescale(factor);
      pack_operand(scores, left);
    }
    sum_values(left, walk_.steps - 1);
    hopper::wait_products<0>();
    shared_.keys.release(walk_.steps - 1);
    write();
  }

 private:
  __device__ void multiply_scores(float (&scores)[kWalkKeys / 2], int step) const {
    const uint32_t own_rows = static_cast<uint32_t>(walk_.group()) * 64 * kBoxRow;
    hopper::begin_products();
    multiply_columns<kHeadDim, kWalkRows, kWalkKeys>(
        scores, hopper::shared_address(shared_.query) + own_rows, shared_.keys.key(step));
    hopper::commit_products();
  }

  __device__ void sum_values(const uint32_t (&left)[kWalkKeys / 16][4], int step) {
    hopper::begin_products();
    multiply_rows<kHeadDim, kWalkKeys>(out_, left, shared_.keys.value(step));
    hopper::commit_products();
  }

  // Turns scores into exp(score - m); returns what the sums so far of each half's row have to be
  // multiplied by.
  __device__ float2 softmax(float (&scores)[kWalkKeys / 2], int step) {
    rows_.mask(scores, walk_.first_key(step), -INFINITY);
    const float scale = a_.operands.scale * kLog2E;
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int j = 0; j < kWalkKeys / 8; ++j) {
        largest = fmaxf(largest, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
      }
      const float before = max_[half];
      max_[half] = fmaxf(before, row_max(largest) * scale);
      const float minus = max_[half] == -INFINITY ? 0.0F : max_[half];
      factor[half] = exp2_approximate(before - minus);
      float sum = 0.0F;
#pragma unroll
      for (int j = 0; j < kWalkKeys / 8; ++j) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores[4 * j + e] = exp2_approximate(scores[4 * j + e] * scale - minus);
          sum += scores[4 * j + e];
        }
      }
      sum_[half] = sum_[half] * factor[half] + sum;
    }
    return {factor[0], factor[1]};
  }

  __device__ void rescale(float2 factor) {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) out_[i] *= i % 4 < 2 ? factor.x : factor.y;
  }

  __device__ void write() {
    const Fragment at;
    const int64_t capacity = list_capacity(a_.operands.tokens);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(sum_[half]);
      if (rows_.token[half] < 0) continue;
      const int64_t index = rows_.index[half];
      const float inverse = sum > 0.0F ? 1.0F / sum : 0.0F;
      if (at.first_column == 0) {
        a_.compact_logsumexp[walk_.head * capacity + index] = kLn2 * (max_[half] + log2f(sum));
      }
      auto* const to = reinterpret_cast<__nv_bfloat162*>(
          static_cast<__nv_bfloat16*>(a_.compact_out) +
          (index * a_.operands.heads + walk_.head) * kHeadDim + at.first_column);
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        to[4 * j] = __floats2bfloat162_rn(out_[4 * j + 2 * half] * inverse,
                                          out_[4 * j + 2 * half + 1] * inverse);
      }
    }
  }

  Shared<kHeadDim>& shared_;
  const ListedForwardArguments& a_;
  const RowWalk& walk_;
  const OwnRows rows_;
  float max_[2] = {-INFINITY, -INFINITY};  // m in base 2, of this thread's two rows
  float sum_[2] = {};                      // this thread's part of l
  float out_[kHeadDim / 2] = {};
};

template <int kHeadDim>
__global__ void __launch_bounds__(kWalkThreads, 1)
    forward(const __grid_constant__ Maps maps, const __grid_constant__ ListedForwardArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = aligned_shared<Shared<kHeadDim>>();
  const RowWalk walk(a.operands);
  if (walk.steps <= 0) return;
  shared.keys.init();
  if (threadIdx.x < kWarpgroup) {
    hopper::give_registers<24>();
    if (threadIdx.x != 0) return;
    shared.keys.expect_rows(sizeof(shared.query));
    for (int box = 0; box < Shared<kHeadDim>::kBoxes; ++box) {
      shared.keys.copy_rows(shared.query[box], maps.query, box, walk);
    }
    shared.keys.copy(maps.key, maps.value, walk);
  } else {
    hopper::take_registers<240>();
    Worker<kHeadDim>(shared, a, walk).run();
  }
#endif
}

template <int kHeadDim>
void launch(const ListedForwardArguments& a, cudaStream_t stream) {
  const ListedOperands& o = a.operands;
  const Maps maps{head_box_map(o.compact_query, list_capacity(o.tokens), o.heads, kHeadDim,
                               o.heads * kHeadDim, kWalkRows),
                  head_box_map(o.key, o.tokens, o.kv_heads, kHeadDim, o.key_stride, kWalkKeys),
                  head_box_map(o.value, o.tokens, o.kv_heads, kHeadDim, o.key_stride, kWalkKeys)};
  constexpr int kBytes = shared_bytes<Shared<kHeadDim>>();
  SWIATTN_CHECK_CUDA(
      cudaFuncSetAttribute(forward<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  forward<kHeadDim><<<walk_blocks(o), kWalkThreads, kBytes, stream>>>(maps, a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void listed_forward_sm90(const ListedForwardArguments& a, void* stream) {
  if (a.operands.tokens == 0) return;
  with_head_dim(a.operands.head_dim, [&](auto head_dim) {
    launch<decltype(head_dim)::value>(a, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace swiattn::gpu
