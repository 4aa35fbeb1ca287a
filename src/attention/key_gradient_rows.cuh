// What the key gradients of all architectures share: the numbers of a list tile, and the search for
// the rows that a block of keys has to visit.
#pragma once

#include "attention/listed_kernels.h"
#include "attention/warp_search.cuh"

namespace swiattn::gpu {

// Of the rows of a list tile in one query head.
struct RowTile {
  float lse[kListTile];  // base 2
  float delta[kListTile];
  int32_t first_key[kListTile];
  int32_t last_key[kListTile];
};

// A bound of the rows [begin, end) of a list that see one of `keys` keys from `first_key` on, for a
// whole warp. Of the four that have a part in it, the first two are for a.rows and the last two for
// a.more_rows, of which there may be none; the even ones find the begin, the odd ones the end.
__device__ inline int32_t find_bound(const KeyGradientArguments& a, int warp, int32_t first_key,
                                     int keys) {
  const RowList& list = warp < 2 ? a.rows.list : a.more_rows.list;
  const int32_t count = list.count != nullptr ? *list.count : 0;
  return warp % 2 == 0 ? lower_bound(list.last_key, count, first_key)
                       : lower_bound(list.first_key, count, first_key + keys);
}

}  // namespace swiattn::gpu
