// Both branches of every token in one pass on Hopper: an item of work is 128 neighbouring tokens of
// one query head, and walks first over the keys of their windows, then over their far keys. The
// near result waits in shared memory meanwhile; in the end the two are joined there and then.
#include <cuda_runtime.h>

#include <algorithm>
#include <climits>

#include "attention/attend_branches.h"
#include "attention/branch_shares.cuh"
#include "attention/head_width.h"
#include "attention/key_walk.cuh"
#include "attention/running_attention.cuh"
#include "attention/softmax_rows.cuh"
#include "attention/tensor_map.h"
#include "attention/warpgroup_tile.cuh"
#include "base/cuda_check.h"
#include "parallel/gpu_occupancy.cuh"

namespace swiattn::gpu {
namespace {

struct Maps {
  CUtensorMap query, key, value, out, difference;
};

__device__ float2 unpack_pair(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000U)};
}

// One item of work: 128 neighbouring tokens of a head. Steps are counted over all items of a block:
// those from first_step on are for the keys of windows, those from far_step on for the far ones.
struct BranchWalk {
  int head, kv_head, first_row;
  int rows;  // 0: there is no more work
  int first_near, first_far, first_step, far_step, end_step;

  // The last tokens come first.
  __device__ void start(const AttendBranchesArguments& a, int item, int step) {
    const int heads = static_cast<int>(a.keys.heads);
    const int tokens = static_cast<int>(a.keys.tokens);
    const int window = static_cast<int>(a.window);
    const int tiles = (tokens + kWalkRows - 1) / kWalkRows;
    head = item % heads;
    kv_head = head / (heads / static_cast<int>(a.keys.kv_heads));
    first_row = (tiles - 1 - item / heads) * kWalkRows;
    rows = min(kWalkRows, tokens - first_row);
    const int position = static_cast<int>(a.position[first_row]);
    const int last_row = first_row + rows - 1;
    first_near = first_row - min(position, window - 1);
    first_far = first_row - position;
    first_step = step;
    far_step = first_step + (last_row - first_near) / kWalkKeys + 1;
    const int last_far = last_row - window;
    end_step = far_step + (last_far < first_far ? 0 : (last_far - first_far) / kWalkKeys + 1);
  }

  __device__ int first_key(int step) const {
    return step < far_step ? first_near + (step - first_step) * kWalkKeys
                           : first_far + (step - far_step) * kWalkKeys;
  }
};

template <int kHeadDim>
struct Shared {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  BoxRow query[kBoxes][kWalkRows];
  // Of each computing warpgroup: results on their way to memory. That of the difference keeps the
  // near result until then.
  BoxRow out[kWalkComputing][kBoxes][64];
  BoxRow difference[kWalkComputing][kBoxes][64];
  KeyStages<kHeadDim> keys;
  BranchWalk walk;  // of the item that is begun
};

template <int kHeadDim>
class Worker {
 public:
  __device__ Worker(Shared<kHeadDim>& shared, const Maps& maps, const AttendBranchesArguments& a,
                    const BranchWalk& walk)
      : shared_(shared),
        maps_(maps),
        a_(a),
        walk_(walk),
        begin_(walk.first_row + computing_group() * 64) {
    look(static_cast<int>(a.window) - 1, 0);
  }

  __device__ void run() {
    walk(walk_.first_step, walk_.far_step);
    put_near_aside();
    if (walk_.far_step < walk_.end_step) {
      look(INT_MAX / 2, static_cast<int>(a_.window));
      walk(walk_.far_step, walk_.end_step);
    }
    shared_.keys.release_rows();
    finish_full();
  }

 private:
  // From now on every row sees its document's keys from `longest` to `shortest` before its own.
  __device__ void look(int longest, int shortest) {
    const int end = walk_.first_row + walk_.rows;
    const auto first = [&](int row) {
      return row - min(static_cast<int>(a_.position[row]), longest);
    };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = begin_ + Fragment().row(2 * half);
      sight_.first_key[half] = row < end ? first(row) : INT_MAX;
      sight_.last_key[half] = row < end ? row - shortest : -1;
    }
    const bool whole = begin_ + 64 <= end;
    sight_.all_see_from = whole ? first(begin_ + 63) : INT_MAX;
    sight_.all_see_to = whole ? begin_ - shortest : -1;
  }

  __device__ void walk(int begin, int end) {
    sums_.attend(shared_.keys, shared_address(shared_.query[0][computing_group() * 64]),
                 a_.keys.scale * kLog2E, walk_, sight_, begin, end);
  }

  __device__ int token(int half) const {
    const int row = begin_ + Fragment().row(2 * half);
    return row < walk_.first_row + walk_.rows ? row : -1;
  }

  __device__ int64_t statistic(int token) const { return walk_.head * a_.keys.tokens + token; }

  // Keeps the near result as it is rounded; the sums begin anew.
  __device__ void put_near_aside() {
    if (threadIdx.x % kWarpgroup == 0) hopper::wait_stores();  // of the item before
    wait_for_group();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = row_sum(sums_.sum[half]);
      const float inverse = sum > 0.0F ? 1.0F / sum : 0.0F;
      near_logsumexp_[half] = sums_.max[half] + log2f(sum);
      sums_.max[half] = -INFINITY;
      sums_.sum[half] = 0.0F;
#pragma unroll
      for (int j = 0; j < kHeadDim / 8; ++j) {
        float& x = sums_.out[4 * j + 2 * half];
        float& y = sums_.out[4 * j + 2 * half + 1];
        *near(2 * j + half) = pack_pair(x * inverse, y * inverse);
        x = y = 0.0F;
      }
    }
  }

  __device__ static void wait_for_group() {
    constexpr int kFirst = 3;  // of the named barriers; those before are the turns'
    hopper::named_barrier(kFirst + computing_group(), kWarpgroup);
  }

  // Where this thread keeps a pair of its near result.
  __device__ uint32_t* near(int pair) const {
    return reinterpret_cast<uint32_t*>(shared_.difference[computing_group()]) + pair * kWarpgroup +
           threadIdx.x % kWarpgroup;
  }

  // Puts down the difference and the result that is chosen, by way of shared memory.
  __device__ void finish_full() {
    const BranchShares shares[2] = {{near_logsumexp_[0], sums_.max[0], row_sum(sums_.sum[0])},
                                    {near_logsumexp_[1], sums_.max[1], row_sum(sums_.sum[1])}};
    const bool routed[2] = {token(0) >= 0 && a_.route[token(0)],
                            token(1) >= 0 && a_.route[token(1)]};
    float squares[2] = {};
    uint32_t near_pairs[kHeadDim / 4];
#pragma unroll
    for (int i = 0; i < kHeadDim / 4; ++i) near_pairs[i] = *near(i);
    wait_for_group();  // all have read before any writes
    const uint32_t out = shared_address(shared_.out[computing_group()]);
    const uint32_t difference = shared_address(shared_.difference[computing_group()]);
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; j += 2) {
      uint32_t chosen[4], far[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int half = i % 2;
        const uint32_t near_pair = near_pairs[2 * (j + i / 2) + half];
        const float2 near = unpack_pair(near_pair);
        const int e = 4 * (j + i / 2) + 2 * half;
        const float2 d = shares[half].difference(sums_.out[e], sums_.out[e + 1], near);
        squares[half] += d.x * d.x + d.y * d.y;
        far[i] = pack_pair(d.x, d.y);
        chosen[i] = routed[half] ? pack_pair(near.x + d.x, near.y + d.y) : near_pair;
      }
      const uint32_t at = block_offset(j);
      hopper::store_matrices(out + at, chosen[0], chosen[1], chosen[2], chosen[3]);
      hopper::store_matrices(difference + at, far[0], far[1], far[2], far[3]);
    }
    hopper::fence_shared_for_async();
    wait_for_group();
    if (threadIdx.x % kWarpgroup == 0) copy_out();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      put_statistics(half, routed[half], shares[half].logsumexp, row_sum(squares[half]));
    }
  }

  // Where this lane's row of the four blocks at columns 8 j and 8 (j + 1) lies in swizzled boxes.
  __device__ static uint32_t block_offset(int j) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>(threadIdx.x) % kWarpgroup / 32 * 16 + lane % 16;
    const int block = j + lane / 16;
    return static_cast<uint32_t>(block / 8 * 64 * kBoxRow + row * kBoxRow +
                                 ((block % 8) ^ (row % 8)) * 16);
  }

  // By one thread of the warpgroup.
  __device__ void copy_out() {
    for (int box = 0; box < Shared<kHeadDim>::kBoxes; ++box) {
      const int column = box * kBoxColumns;
      hopper::store_box(&maps_.out, shared_.out[computing_group()][box], column, walk_.head,
                        begin_);
      hopper::store_box(&maps_.difference, shared_.difference[computing_group()][box], column,
                        walk_.head, begin_);
    }
    hopper::commit_stores();
  }

  __device__ void put_statistics(int half, bool routed, float full_base2, float squares) {
    const int own = token(half);
    if (own < 0 || Fragment().first_column != 0) return;
    const bool full = routed && a_.position[own] >= a_.window;
    a_.logsumexp[statistic(own)] = kLn2 * (full ? full_base2 : near_logsumexp_[half]);
    a_.squares[statistic(own)] = squares;
  }

  Shared<kHeadDim>& shared_;
  const Maps& maps_;
  const AttendBranchesArguments& a_;
  const BranchWalk& walk_;
  const int begin_;  // first row of the warpgroup
  Sight sight_;
  float near_logsumexp_[2];  // in base 2
  RunningAttention<kHeadDim> sums_;
};

// By one thread: takes item after item, so that no block is left with more work than others, and
// copies ahead of the computing warpgroups.
template <int kHeadDim>
__device__ void copy_operands(Shared<kHeadDim>& shared, const Maps& maps,
                              const AttendBranchesArguments& a) {
  const int items = walk_items(a.keys);
  int step = 0;
  for (uint32_t parity = 0;; parity ^= 1) {
    const int item = atomicAdd(a.next_item, 1);
    BranchWalk& walk = shared.walk;
    shared.keys.wait_for_room(parity);
    walk.rows = 0;
    if (item < items) walk.start(a, item, step);
    shared.keys.expect_rows(item < items ? sizeof(shared.query) : 0);
    if (item >= items) return;
    for (int box = 0; box < Shared<kHeadDim>::kBoxes; ++box) {
      shared.keys.copy_rows(shared.query[box], maps.query, box, walk);
    }
    shared.keys.copy(maps.key, maps.value, walk);
    step = walk.end_step;
  }
}

template <int kHeadDim>
__device__ void compute(Shared<kHeadDim>& shared, const Maps& maps,
                        const AttendBranchesArguments& a) {
  for (uint32_t parity = 0;; parity ^= 1) {
    shared.keys.wait_for_rows(parity);
    const BranchWalk walk = shared.walk;  // overwritten once the rows are released
    if (walk.rows == 0) break;
    Worker<kHeadDim>(shared, maps, a, walk).run();
  }
  if (threadIdx.x % kWarpgroup == 0) hopper::wait_stores();
}

template <int kHeadDim>
__global__ void __launch_bounds__(kWalkThreads, 1)
    branches(const __grid_constant__ Maps maps, const __grid_constant__ AttendBranchesArguments a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  auto& shared = aligned_shared<Shared<kHeadDim>>();
  shared.keys.init();
  if (threadIdx.x < kWarpgroup) {
    hopper::give_registers<24>();
    if (threadIdx.x == 0) copy_operands(shared, maps, a);
  } else {
    hopper::take_registers<240>();
    compute(shared, maps, a);
  }
#endif
}

template <int kHeadDim>
void launch(const AttendBranchesArguments& a, cudaStream_t stream) {
  const KeyValues& k = a.keys;
  const Maps maps{head_box_map(a.query, k.tokens, k.heads, kHeadDim, a.query_stride, kWalkRows),
                  head_box_map(k.key, k.tokens, k.kv_heads, kHeadDim, k.stride, kWalkKeys),
                  head_box_map(k.value, k.tokens, k.kv_heads, kHeadDim, k.stride, kWalkKeys),
                  head_box_map(a.out, k.tokens, k.heads, kHeadDim, k.heads * kHeadDim, 64),
                  head_box_map(a.difference, k.tokens, k.heads, kHeadDim, k.heads * kHeadDim, 64)};
  constexpr int kBytes = shared_bytes<Shared<kHeadDim>>();
  SWIATTN_CHECK_CUDA(cudaFuncSetAttribute(branches<kHeadDim>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  // One block on each multiprocessor, as far as there is work.
  const auto blocks = std::min<int64_t>(walk_items(k), multiprocessors());
  branches<kHeadDim><<<static_cast<unsigned>(blocks), kWalkThreads, kBytes, stream>>>(maps, a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void attend_branches_sm90(const AttendBranchesArguments& arguments, void* stream) {
  AttendBranchesArguments a = arguments;
  if (a.keys.tokens == 0) return;
  a.window = std::min(a.window, a.keys.tokens);  // as good as any longer one
  with_head_dim(a.keys.head_dim,
                [&](auto head_dim) { launch<decltype(head_dim)::value>(a, as_stream(stream)); });
}

}  // namespace swiattn::gpu
