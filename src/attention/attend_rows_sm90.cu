// Attention of listed rows to their keys on Hopper: a block owns 128 listed rows of one query head
// and walks over their keys, 128 at a time. Two warpgroups compute, each for 64 of the rows; a
// third one copies. The running softmax goes on from an earlier result, m = its log-sum-exp, l = 1
// and o = its output, so that nothing has to be merged. Where the difference is asked for, l and o
// begin with nothing and are of the listed keys alone; the earlier result joins them at the end.
#include <cuda_runtime.h>

#include "attention/branch_shares.cuh"
#include "attention/head_width.h"
#include "attention/listed_kernels.h"
#include "attention/listed_row_walk.cuh"
#include "attention/running_attention.cuh"
#include "attention/softmax_rows.cuh"
#include "attention/tensor_map.h"
#include "attention/warpgroup_tile.cuh"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

template <int kHeadDim>
struct Shared {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  BoxRow query[kBoxes][kWalkRows];
  KeyStages<kHeadDim> keys;
};

struct Maps {
  CUtensorMap query, key, value;
};

template <int kHeadDim, bool kDifference>
class Worker {
 public:
  __device__ Worker(Shared<kHeadDim>& shared, const AttendRowsArguments& a, const RowWalk& walk)
      : shared_(shared), a_(a), walk_(walk), rows_(a.rows.list, walk) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (kDifference || rows_.token[half] < 0) continue;
      sums_.max[half] = *logsumexp(half) * kLog2E;
      sums_.sum[half] = Fragment().first_column == 0 ? 1.0F : 0.0F;  // once among a row's threads
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        const float2 before = __bfloat1622float2(out(half)[4 * j]);
        sums_.out[4 * j + 2 * half] = before.x;
        sums_.out[4 * j + 2 * half + 1] = before.y;
      }
    }
  }

  __device__ void run() {
    KeyStages<kHeadDim>& keys = shared_.keys;
    keys.wait_for_rows();
    const uint32_t query = shared_address(shared_.query[0][computing_group() * 64]);
    sums_.attend(keys, query, a_.keys.scale * kLog2E, walk_, rows_.sight, walk_.first_step,
                 walk_.end_step);
    if constexpr (kDifference) {
      write_difference();
    } else {
      write();
    }
  }

 private:
  // Where this thread's part of a row begins.
  __device__ __nv_bfloat162* part_of(Bf16* rows, int half) const {
    return reinterpret_cast<__nv_bfloat162*>(
        static_cast<__nv_bfloat16*>(rows) +
        (static_cast<int64_t>(rows_.token[half]) * a_.keys.heads + walk_.head) * kHeadDim +
        Fragment().first_column);
  }
  __device__ __nv_bfloat162* out(int half) const { return part_of(a_.out, half); }
  // Of a row, in an array [Hq, T].
  __device__ int64_t statistic(int half) const {
    return walk_.head * a_.keys.tokens + rows_.token[half];
  }
  __device__ float* logsumexp(int half) const { return a_.logsumexp + statistic(half); }

  __device__ void write() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(sums_.sum[half]);
      if (rows_.token[half] < 0) continue;
      if (Fragment().first_column == 0) *logsumexp(half) = kLn2 * (sums_.max[half] + log2f(sum));
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        out(half)[4 * j] = __floats2bfloat162_rn(sums_.out[4 * j + 2 * half] / sum,
                                                 sums_.out[4 * j + 2 * half + 1] / sum);
      }
    }
  }

  __device__ void write_difference() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float far_sum = row_sum(sums_.sum[half]);
      const bool listed = rows_.token[half] >= 0;
      const bool routed = listed && a_.route[rows_.token[half]];
      const float near_max = listed ? *logsumexp(half) * kLog2E : 0.0F;
      const BranchShares shares(near_max, sums_.max[half], far_sum);
      const float squares = row_sum(listed ? put_difference(half, shares, routed) : 0.0F);
      if (!listed || Fragment().first_column != 0) continue;
      a_.squares[statistic(half)] = squares;
      if (routed) *logsumexp(half) = kLn2 * shares.logsumexp;
    }
  }

  // This thread's part of a row's difference and, if routed, of its output. Returns its part of the
  // sum of squares.
  __device__ float put_difference(int half, const BranchShares& shares, bool routed) {
    __nv_bfloat162* const result = out(half);
    __nv_bfloat162* const difference = part_of(a_.difference, half);
    return shares.put_difference<kHeadDim>(&sums_.out[2 * half], difference, result, routed);
  }

  Shared<kHeadDim>& shared_;
  const AttendRowsArguments& a_;
  const RowWalk& walk_;
  const OwnRows rows_;
  RunningAttention<kHeadDim> sums_;
};

template <int kHeadDim, bool kDifference>
__global__ void __launch_bounds__(kWalkThreads, 1)
    forward(const __grid_constant__ Maps maps, const __grid_constant__ AttendRowsArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = aligned_shared<Shared<kHeadDim>>();
  const RowWalk walk(a.rows.list, a.keys);
  if (walk.end_step == 0) return;
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
    Worker<kHeadDim, kDifference>(shared, a, walk).run();
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
  const auto kernel = a.difference != nullptr ? forward<kHeadDim, true> : forward<kHeadDim, false>;
  SWIATTN_CHECK_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  kernel<<<walk_items(k), kWalkThreads, kBytes, stream>>>(maps, a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void attend_rows_sm90(const AttendRowsArguments& a, void* stream) {
  if (a.keys.tokens == 0) return;
  with_head_dim(a.keys.head_dim,
                [&](auto head_dim) { launch<decltype(head_dim)::value>(a, as_stream(stream)); });
}

}  // namespace swiattn::gpu
