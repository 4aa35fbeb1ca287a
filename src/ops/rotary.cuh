// The rotation that rotary positions are, of eight neighbouring pairs of a head.
#pragma once

#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {

// Turns the pairs (low_i, high_i) by angles of these cosines and sines, times `direction`, 1 or -1.
__device__ inline void turn_pairs(const float* cosine, const float* sine, float direction,
                                  float (&low)[kVector], float (&high)[kVector]) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const float s = direction * sine[i];
    const float turned = low[i] * cosine[i] - high[i] * s;
    high[i] = high[i] * cosine[i] + low[i] * s;
    low[i] = turned;
  }
}

}  // namespace swiattn::gpu
