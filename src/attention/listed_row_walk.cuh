// How the Hopper kernels that own listed rows walk over keys: a block owns 128 rows of one query
// head, two warpgroups compute for 64 of them each, a third one copies the keys and values that the
// rows see, 128 at a time. Shared by the forward and the query gradient.
#pragma once

#include <climits>

#include "attention/listed_kernels.h"
#include "attention/warpgroup_tile.cuh"

namespace swiattn::gpu {

constexpr int kWalkRows = 128;  // of a block
constexpr int kWalkKeys = 128;  // of a step
constexpr int kWalkComputing = 2;
constexpr int kWalkThreads = kWarpgroup * (1 + kWalkComputing);

inline unsigned walk_blocks(const KeyValues& a) {
  return static_cast<unsigned>((a.tokens + kWalkRows - 1) / kWalkRows * a.heads);
}

// Which rows and keys are this block's. The rows with the most keys come first.
struct RowWalk {
  int head, kv_head, first_row, rows, first_key_of_all;
  int steps;  // 0: no rows

  __device__ RowWalk(const RowList& list, const KeyValues& a) {
    const int count = *list.count;
    const int tiles = (count + kWalkRows - 1) / kWalkRows;
    const int heads = static_cast<int>(a.heads);
    head = static_cast<int>(blockIdx.x) % heads;
    kv_head = head / (heads / static_cast<int>(a.kv_heads));
    const int tile = tiles - 1 - static_cast<int>(blockIdx.x) / heads;
    steps = 0;
    if (tile < 0) return;
    first_row = tile * kWalkRows;
    rows = min(kWalkRows, count - first_row);
    first_key_of_all = list.first_key[first_row];
    const int last_key = list.last_key[first_row + rows - 1];
    steps = (last_key - first_key_of_all) / kWalkKeys + 1;
  }

  __device__ int first_key(int step) const { return first_key_of_all + step * kWalkKeys; }
  // The computing warpgroup that this thread belongs to.
  __device__ int group() const { return static_cast<int>(threadIdx.x) / kWarpgroup - 1; }
};

// This thread's two rows among its warpgroup's.
struct OwnRows {
  int index[2];  // in the list
  int token[2];  // -1: none
  int first_key[2], last_key[2];
  int all_see_from, all_see_to;  // keys that every row of the warpgroup sees

  __device__ OwnRows(const RowList& list, const RowWalk& walk) {
    const Fragment at;
    const int begin = walk.first_row + walk.group() * 64;
    const int end = walk.first_row + walk.rows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      index[half] = begin + at.row(2 * half);
      const bool listed = index[half] < end;
      if (!listed) index[half] = walk.first_row;  // any row whose numbers are finite
      token[half] = listed ? list.row[index[half]] : -1;
      first_key[half] = listed ? list.first_key[index[half]] : INT_MAX;
      last_key[half] = listed ? list.last_key[index[half]] : -1;
    }
    const bool whole = begin + 64 <= end;
    all_see_from = whole ? list.first_key[begin + 63] : INT_MAX;
    all_see_to = whole ? list.last_key[begin] : -1;
  }

  // Sets what a row does not see in scores [64, kWalkKeys] from `key` on.
  __device__ void mask(float (&scores)[kWalkKeys / 2], int key, float unseen) const {
    if (key >= all_see_from && key + kWalkKeys - 1 <= all_see_to) return;
    const Fragment at;
#pragma unroll
    for (int j = 0; j < kWalkKeys / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = key + at.column(j, e);
        if (column < first_key[e / 2] || column > last_key[e / 2]) scores[4 * j + e] = unseen;
      }
    }
  }
};

// The keys and values in flight, and the barriers of a block. Keys and values have their own, so
// that either's room is free for the next copy as soon as its last product is done.
template <int kHeadDim>
struct KeyStages {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  static constexpr int kStages = 2;

  struct alignas(1024) Ring {  // where a swizzled box may begin
    BoxRow tile[kStages][kBoxes][kWalkKeys];
    uint64_t full[kStages];
    uint64_t empty[kStages];

    __device__ void init() {
      for (uint64_t& barrier : full) hopper::init_barrier(&barrier, 1);
      for (uint64_t& barrier : empty) {
        hopper::init_barrier(&barrier, kWalkComputing * kWarpgroup / 32);
      }
    }
    __device__ void copy(const CUtensorMap& map, int step, const RowWalk& walk) {
      const int s = step % kStages;
      hopper::wait(&empty[s], ((step / kStages) & 1) ^ 1);
      hopper::arrive_expecting(&full[s], sizeof(tile[s]));
      for (int box = 0; box < kBoxes; ++box) {
        hopper::copy_box(tile[s][box], &map, &full[s], box * kBoxColumns, walk.kv_head,
                         walk.first_key(step));
      }
    }
    // The address of a step's tile, once it is there.
    __device__ uint32_t wait(int step) {
      hopper::wait(&full[step % kStages], (step / kStages) & 1);
      return hopper::shared_address(tile[step % kStages]);
    }
    __device__ void release(int step) {
      __syncwarp();
      if (threadIdx.x % 32 == 0) hopper::arrive(&empty[step % kStages]);
    }
  };

  Ring key;
  Ring value;
  uint64_t rows_full;

  __device__ void init() {
    if (threadIdx.x == 0) {
      hopper::init_barrier(&rows_full, 1);
      key.init();
      value.init();
      hopper::fence_barrier_init();
    }
    __syncthreads();
  }

  // By the copying thread: the rows' operands first, then all keys and values.
  __device__ void expect_rows(uint32_t bytes) { hopper::arrive_expecting(&rows_full, bytes); }
  __device__ void copy_rows(void* to, const CUtensorMap& map, int box, const RowWalk& walk) {
    hopper::copy_box(to, &map, &rows_full, box * kBoxColumns, walk.head, walk.first_row);
  }
  __device__ void copy(const CUtensorMap& keys, const CUtensorMap& values, const RowWalk& walk) {
    for (int step = 0; step < walk.steps; ++step) {
      key.copy(keys, step, walk);
      value.copy(values, step, walk);
    }
  }

  // By the computing warpgroups.
  __device__ void wait_for_rows() { hopper::wait(&rows_full, 0); }
};

}  // namespace swiattn::gpu
