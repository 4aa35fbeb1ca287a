// Searches by a whole warp.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace swiattn::gpu {

// The first i < count with values[i] >= bound, count if there is none: 32 probes at a time. Values
// never decrease.
__device__ inline int32_t lower_bound(const int32_t* values, int32_t count, int32_t bound) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int32_t begin = 0;
  int32_t length = count;
  while (length > 0) {
    const int32_t step = (length + 31) / 32;
    const int32_t probe = begin + (lane + 1) * step - 1;
    const bool below = probe < begin + length && values[probe] < bound;
    const int32_t passed = __popc(__ballot_sync(0xffffffffU, below)) * step;
    // All before begin + passed are below the bound, and so may be the rest of the next step.
    length = min(step - 1, length - passed);
    begin += passed;
  }
  return begin;
}

}  // namespace swiattn::gpu
