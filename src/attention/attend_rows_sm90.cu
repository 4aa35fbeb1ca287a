// Attention of listed rows to their keys on Hopper: a block owns 128 listed rows of one query head
// and walks over their keys, 128 at a time. Two warpgroups compute, each for 64 of the rows; a
// third one copies. The softmax is the running one: with the largest score so far, m, the sums
// l = sum exp(s - m) and o = sum exp(s - m) v are rescaled whenever m grows. It goes on from an
// earlier result, m = its log-sum-exp, l = 1 and o = its output, so that nothing has to be merged.
// The scores of a step are formed while the values of the step before are summed.
#include <cuda_runtime.h>

#include "attention/listed_kernels.h"
#include "attention/listed_row_walk.cuh"
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
  __device__ Worker(Shared<kHeadDim>& shared, const AttendRowsArguments& a, const RowWalk& walk)
      : shared_(shared), a_(a), walk_(walk), rows_(a.rows.list, walk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (rows_.token[half] < 0) continue;
      max_[half] = *logsumexp(half) * kLog2E;
      sum_[half] = Fragment().first_column == 0 ? 1.0F : 0.0F;  // once among a row's threads
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        const float2 before = __bfloat1622float2(out(half)[4 * j]);
        out_[4 * j + 2 * half] = before.x;
        out_[4 * j + 2 * half + 1] = before.y;
      }
    }
  }

  __device__ void run() {
    KeyStages<kHeadDim>& keys = shared_.keys;
    keys.wait_for_rows();
    float scores[kWalkKeys / 2];
    multiply_scores(scores, 0);
    hopper::wait_products<0>();
    keys.key.release(0);
    uint32_t left[kWalkKeys / 16][4];
    rescale(softmax(scores, 0));
    pack_operand(scores, left);
    Turns turns(walk_.group(), walk_.steps - 1);
    for (int step = 1; step < walk_.steps; ++step) {
      turns.take();
      multiply_scores(scores, step);
      sum_values(left, step - 1);
      turns.pass();
      hopper::wait_products<1>();
      keys.key.release(step);
      const float2 factor = softmax(scores, step);
      hopper::wait_products<0>();
      keys.value.release(step - 1);
      rescale(factor);
      pack_operand(scores, left);
    }
    sum_values(left, walk_.steps - 1);
    hopper::wait_products<0>();
    write();
  }

 private:
  __device__ void multiply_scores(float (&scores)[kWalkKeys / 2], int step) {
    const uint32_t own_rows = static_cast<uint32_t>(walk_.group()) * 64 * kBoxRow;
    const uint32_t key = shared_.keys.key.wait(step);
    hopper::begin_products();
    multiply_columns<kHeadDim, kWalkRows, kWalkKeys>(
        scores, hopper::shared_address(shared_.query) + own_rows, key);
    hopper::commit_products();
  }

  __device__ void sum_values(const uint32_t (&left)[kWalkKeys / 16][4], int step) {
    const uint32_t value = shared_.keys.value.wait(step);
    hopper::begin_products();
    multiply_rows<kHeadDim, kWalkKeys>(out_, left, value);
    hopper::commit_products();
  }

  // Turns scores into exp(score - m); returns what the sums so far of each half's row have to be
  // multiplied by.
  __device__ float2 softmax(float (&scores)[kWalkKeys / 2], int step) {
    rows_.mask(scores, walk_.first_key(step), -INFINITY);
    const float scale = a_.keys.scale * kLog2E;
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

  // Where this thread's part of a row begins.
  __device__ __nv_bfloat162* out(int half) const {
    return reinterpret_cast<__nv_bfloat162*>(
        static_cast<__nv_bfloat16*>(a_.out) +
        (static_cast<int64_t>(rows_.token[half]) * a_.keys.heads + walk_.head) * kHeadDim +
        Fragment().first_column);
  }
  __device__ float* logsumexp(int half) const {
    return a_.logsumexp + walk_.head * a_.keys.tokens + rows_.token[half];
  }

  __device__ void write() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(sum_[half]);
      if (rows_.token[half] < 0) continue;
      if (Fragment().first_column == 0) *logsumexp(half) = kLn2 * (max_[half] + log2f(sum));
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        out(half)[4 * j] =
            __floats2bfloat162_rn(out_[4 * j + 2 * half] / sum, out_[4 * j + 2 * half + 1] / sum);
      }
    }
  }

  Shared<kHeadDim>& shared_;
  const AttendRowsArguments& a_;
  const RowWalk& walk_;
  const OwnRows rows_;
  float max_[2] = {-INFINITY, -INFINITY};  // m in base 2, of this thread's two rows
  float sum_[2] = {};                      // this thread's part of l
  float out_[kHeadDim / 2] = {};
};

template <int kHeadDim>
__global__ void __launch_bounds__(kWalkThreads, 1)
    forward(const __grid_constant__ Maps maps, const __grid_constant__ AttendRowsArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = aligned_shared<Shared<kHeadDim>>();
  const RowWalk walk(a.rows.list, a.keys);
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
void launch(const AttendRowsArguments& a, cudaStream_t stream) {
  const ListedRows& r = a.rows;
  const KeyValues& k = a.keys;
  const Maps maps{head_box_map(r.query, r.rows, k.heads, kHeadDim, r.query_stride, kWalkRows),
                  head_box_map(k.key, k.tokens, k.kv_heads, kHeadDim, k.stride, kWalkKeys),
                  head_box_map(k.value, k.tokens, k.kv_heads, kHeadDim, k.stride, kWalkKeys)};
  constexpr int kBytes = shared_bytes<Shared<kHeadDim>>();
  SWIATTN_CHECK_CUDA(
      cudaFuncSetAttribute(forward<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  forward<kHeadDim><<<walk_blocks(k), kWalkThreads, kBytes, stream>>>(maps, a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void attend_rows_sm90(const AttendRowsArguments& a, void* stream) {
  if (a.keys.tokens == 0) return;
  with_head_dim(a.keys.head_dim, [&](auto head_dim) {
    launch<decltype(head_dim)::value>(a, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace swiattn::gpu
