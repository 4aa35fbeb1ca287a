// The walk over keys of a block whose rows are listed.
#pragma once

#include <climits>

#include "attention/key_walk.cuh"

namespace swiattn::gpu {

// Which rows and keys are a block's. The rows with the most keys come first.
struct RowWalk {
  int head, kv_head, first_row, rows, first_key_of_all;
  int first_step = 0, end_step = 0;  // none without rows

  __device__ RowWalk(const RowList& list, const KeyValues& a) {
    const int count = *list.count;
    const int tiles = (count + kWalkRows - 1) / kWalkRows;
    const int heads = static_cast<int>(a.heads);
    head = static_cast<int>(blockIdx.x) % heads;
    kv_head = head / (heads / static_cast<int>(a.kv_heads));
    const int tile = tiles - 1 - static_cast<int>(blockIdx.x) / heads;
    if (tile < 0) return;
    first_row = tile * kWalkRows;
    rows = min(kWalkRows, count - first_row);
    first_key_of_all = list.first_key[first_row];
    const int last_key = list.last_key[first_row + rows - 1];
    end_step = (last_key - first_key_of_all) / kWalkKeys + 1;
  }

  __device__ int first_key(int step) const { return first_key_of_all + step * kWalkKeys; }
};

// This thread's two rows of a list.
struct OwnRows {
  int index[2];  // in the list
  int token[2];  // -1: none
  Sight sight;
  int some_see_from, some_see_to;  // outside of these keys no row of the warpgroup sees any

  __device__ OwnRows(const RowList& list, const RowWalk& walk) {
    const Fragment at;
    const int begin = walk.first_row + computing_group() * 64;
    const int end = walk.first_row + walk.rows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      index[half] = begin + at.row(2 * half);
      const bool listed = index[half] < end;
      if (!listed) index[half] = walk.first_row;  // any row whose numbers are finite
      token[half] = listed ? list.row[index[half]] : -1;
      sight.first_key[half] = listed ? list.first_key[index[half]] : INT_MAX;
      sight.last_key[half] = listed ? list.last_key[index[half]] : -1;
    }
    const bool whole = begin + 64 <= end;
    sight.all_see_from = whole ? list.first_key[begin + 63] : INT_MAX;
    sight.all_see_to = whole ? list.last_key[begin] : -1;
    const bool any = begin < end;
    some_see_from = any ? list.first_key[begin] : INT_MAX;
    some_see_to = any ? list.last_key[min(begin + 64, end) - 1] : -1;
  }

  __device__ bool some_see(int key, int keys) const {
    return key <= some_see_to && key + keys > some_see_from;
  }
};

}  // namespace swiattn::gpu
