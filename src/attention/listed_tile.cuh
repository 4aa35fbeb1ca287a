// Tiles of listed rows and the keys they see, and the rows that see a key; for kernels.
#pragma once

#include <cstdint>

#include "attention/listed_kernels.h"
#include "attention/warp_products.cuh"

namespace swiattn::gpu {

// Consecutive rows of the list in one query head. Kept in shared memory, registers being scarce.
struct ListTile {
  int head;
  int kv_head;
  int row;                           // index of the first
  int rows;                          // that are listed
  int32_t begin, end;                // keys that some row sees lie in [begin, end)
  int32_t common_begin, common_end;  // every listed row sees these

  __device__ bool all_see(int32_t key, int keys) const {
    return key >= common_begin && key + keys <= common_end;
  }
};

// The tile of a block whose grid has one for each kRows rows and query head: the last tiles, which
// tend to see the most keys, come first. False if there is none; else a barrier of the block.
template <int kRows>
__device__ inline bool take_tile(const RowList& list, const KeyValues& keys, ListTile& tile) {
  const int heads = static_cast<int>(keys.heads);
  const int count = *list.count;
  const int row = ((count + kRows - 1) / kRows - 1 - static_cast<int>(blockIdx.x) / heads) * kRows;
  if (row < 0) return false;
  if (threadIdx.x == 0) {
    const int head = static_cast<int>(blockIdx.x) % heads;
    const int rows = min(kRows, count - row);
    const int last = row + rows - 1;
    tile = {head,
            head / (heads / static_cast<int>(keys.kv_heads)),
            row,
            rows,
            list.first_key[row],
            list.last_key[last] + 1,
            list.first_key[last],
            list.last_key[row] + 1};
  }
  __syncthreads();
  return true;
}

// Asks for a tile's rows of an array [rows, Hq, D], `stride` elements from row to row; those beyond
// the list are zeros.
template <int kHeadDim, int kRows, int kThreads>
__device__ inline void copy_tile(__nv_bfloat16* to, const Bf16* from, int64_t stride,
                                 const ListTile& tile) {
  ampere::copy_rows<kHeadDim, kRows, kThreads>(
      shared_address(to),
      static_cast<const __nv_bfloat16*>(from) + tile.row * stride + tile.head * kHeadDim, stride,
      tile.rows);
}

// Logits [16 kM rows, 8 kN keys] from a row of the tile and a key on: those of keys that the row
// does not see become -inf. Rows beyond the list see none.
template <int kM, int kN>
__device__ inline void mask(float (&logits)[kM][kN][4], const RowList& list, const ListTile& tile,
                            int row, int32_t key) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = row + ampere::sum_row(m, 2 * h);
      const int32_t first = i < tile.rows ? list.first_key[tile.row + i] : 0;
      const uint32_t seen = i < tile.rows ? list.last_key[tile.row + i] - first + 1 : 0;
      const uint32_t distance = key + ampere::sum_column(0, 0) - first;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        if (distance + 8 * n >= seen) logits[m][n][2 * h] = -INFINITY;
        if (distance + 8 * n + 1 >= seen) logits[m][n][2 * h + 1] = -INFINITY;
      }
    }
  }
}

}  // namespace swiattn::gpu
