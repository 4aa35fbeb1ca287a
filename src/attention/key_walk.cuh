// How the Hopper kernels that own rows walk over keys: an item of work is 128 rows of one query
// head, two warpgroups compute for 64 of them each, a third one copies the keys and values that the
// rows see, 128 at a time. Shared by the forwards and the query gradient.
#pragma once

#include "attention/listed_kernels.h"
#include "attention/warpgroup_tile.cuh"

namespace swiattn::gpu {

constexpr int kWalkRows = 128;  // of a block
constexpr int kWalkKeys = 128;  // of a step
constexpr int kWalkComputing = 2;
constexpr int kWalkThreads = kWarpgroup * (1 + kWalkComputing);

__host__ __device__ inline int walk_items(const KeyValues& a) {
  return static_cast<int>((a.tokens + kWalkRows - 1) / kWalkRows * a.heads);
}

// The computing warpgroup that this thread belongs to.
__device__ inline int computing_group() { return static_cast<int>(threadIdx.x) / kWarpgroup - 1; }

// What this thread's two rows see.
struct Sight {
  int first_key[2], last_key[2];
  int all_see_from, all_see_to;  // keys that every row of the warpgroup sees

  // Sets what a row does not see in scores [64, keys] from `key` on.
  template <int kSums>
  __device__ void mask(float (&scores)[kSums], int key, float unseen) const {
    constexpr int kKeys = 2 * kSums;
    if (key >= all_see_from && key + kKeys - 1 <= all_see_to) return;
    const Fragment at;
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = key + at.column(j, e);
        if (column < first_key[e / 2] || column > last_key[e / 2]) scores[4 * j + e] = unseen;
      }
    }
  }
};

// The keys and values in flight, and the barriers of a block. Keys and values have their own, so
// that either's room is free for the next copy as soon as its last product is done. Steps and first
// keys are a walk's.
template <int kHeadDim>
struct KeyStages {
  static constexpr int kBoxes = kHeadDim / kBoxColumns;
  static constexpr int kStages = 2;

  using Tile = BoxRow[kBoxes][kWalkKeys];
  struct Barriers {
    uint64_t full[kStages], empty[kStages];
  };

  alignas(1024) Tile key_tiles[kStages];  // where a swizzled box may begin
  Tile value_tiles[kStages];
  Barriers key_barriers, value_barriers;
  uint64_t rows_full, rows_empty;

  // The tiles of one kind with their barriers.
  struct Ring {
    Tile* tile;
    Barriers* barriers;

    __device__ void init() const {
      for (uint64_t& barrier : barriers->full) hopper::init_barrier(&barrier, 1);
      for (uint64_t& barrier : barriers->empty) {
        hopper::init_barrier(&barrier, kWalkComputing * kWarpgroup / 32);
      }
    }
    template <class Walk>
    __device__ void copy(const CUtensorMap& map, int step, const Walk& walk) const {
      const int s = step % kStages;
      hopper::wait(&barriers->empty[s], ((step / kStages) & 1) ^ 1);
      hopper::arrive_expecting(&barriers->full[s], sizeof(Tile));
      for (int box = 0; box < kBoxes; ++box) {
        hopper::copy_box(tile[s][box], &map, &barriers->full[s], box * kBoxColumns, walk.kv_head,
                         walk.first_key(step));
      }
    }
    // The address of a step's tile, once it is there.
    __device__ uint32_t wait(int step) const {
      hopper::wait(&barriers->full[step % kStages], (step / kStages) & 1);
      return shared_address(tile[step % kStages]);
    }
    __device__ void release(int step) const {
      __syncwarp();
      if (threadIdx.x % 32 == 0) hopper::arrive(&barriers->empty[step % kStages]);
    }
  };
  __device__ Ring key() { return {key_tiles, &key_barriers}; }
  __device__ Ring value() { return {value_tiles, &value_barriers}; }

  __device__ void init() {
    if (threadIdx.x == 0) {
      hopper::init_barrier(&rows_full, 1);
      hopper::init_barrier(&rows_empty, kWalkComputing * kWarpgroup);
      key().init();
      value().init();
      hopper::fence_barrier_init();
    }
    __syncthreads();
  }

  // By the copying thread: the rows' operands first, `bytes` of them, then all keys and values. The
  // parity is that of the number of items of work that a block has had before, where it has
  // several.
  __device__ void wait_for_room(uint32_t parity) { hopper::wait(&rows_empty, parity ^ 1); }
  __device__ void expect_rows(uint32_t bytes) { hopper::arrive_expecting(&rows_full, bytes); }
  template <class Walk>
  __device__ void copy_rows(void* to, const CUtensorMap& map, int box, const Walk& walk) {
    hopper::copy_box(to, &map, &rows_full, box * kBoxColumns, walk.head, walk.first_row);
  }
  template <class Walk>
  __device__ void copy(const CUtensorMap& keys, const CUtensorMap& values, const Walk& walk) {
    for (int step = walk.first_step; step < walk.end_step; ++step) {
      key().copy(keys, step, walk);
      value().copy(values, step, walk);
    }
  }

  // By the computing warpgroups: before the first and after the last product with the rows.
  __device__ void wait_for_rows(uint32_t parity = 0) { hopper::wait(&rows_full, parity); }
  __device__ void release_rows() { hopper::arrive(&rows_empty); }
};

}  // namespace swiattn::gpu
