// What the far keys of a row add to its near result.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

namespace swiattn::gpu {

// With logits s and the near log-sum-exp n in base 2, and the sums over far keys
// l = sum 2^(s - m), o = sum 2^(s - m) v:
//
//   p_far      = l 2^m / (2^n + l 2^m)
//   difference = o_full - o_near = p_far (o / l - o_near) = of_sum * o - far * o_near
struct BranchShares {
  float far;        // p_far
  float of_sum;     // 2^m / (2^n + l 2^m)
  float logsumexp;  // of near and far together, in base 2

  // `near` is finite. Rows without far keys have m = -inf and l = 0.
  __device__ BranchShares(float near, float far_max, float far_sum) {
    const float largest = fmaxf(near, far_max);
    const float factor = exp2f(far_max - largest);
    const float sum = exp2f(near - largest) + far_sum * factor;
    of_sum = factor / sum;
    far = far_sum * of_sum;
    logsumexp = largest + log2f(sum);
  }

  // Of two columns, from o and o_near.
  __device__ float2 difference(float far_x, float far_y, float2 near) const {
    return {far_x * of_sum - near.x * far, far_y * of_sum - near.y * far};
  }

  // A thread's part of a row in the fragments of a product: pairs of columns, 8 columns apart, o of
  // them in sums[0], sums[1], sums[4], sums[5] … . Writes the difference and, if routed, adds it to
  // the result, which is o_near before. Returns the part's sum of squares.
  template <int kHeadDim>
  __device__ float put_difference(const float* sums, __nv_bfloat162* difference_row,
                                  __nv_bfloat162* result, bool routed) const {
    __nv_bfloat162 before[kHeadDim / 8];  // all at once: the stores may alias the loads
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) before[j] = result[4 * j];
    float squares = 0.0F;
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      const float2 near = __bfloat1622float2(before[j]);
      const float2 d = difference(sums[4 * j], sums[4 * j + 1], near);
      squares += d.x * d.x + d.y * d.y;
      difference_row[4 * j] = __floats2bfloat162_rn(d.x, d.y);
      if (routed) result[4 * j] = __floats2bfloat162_rn(near.x + d.x, near.y + d.y);
    }
    return squares;
  }
};

}  // namespace swiattn::gpu
