// What the far keys of a row add to its near result.
#pragma once

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
};

}  // namespace swiattn::gpu
