// The running softmax over the keys of a walk, for the 64 rows of a computing warpgroup: with m at
// least the largest score so far, less some slack, the sums l = sum exp(s - m) and
// o = sum exp(s - m) v, rescaled whenever m grows. The scores of a step are formed while the values
// of the step before are summed.
#pragma once

#include "attention/key_walk.cuh"
#include "attention/softmax_rows.cuh"

namespace swiattn::gpu {

template <int kHeadDim>
struct RunningAttention {
  float max[2] = {-INFINITY, -INFINITY};  // m in base 2, of this thread's two rows
  float sum[2] = {};                      // this thread's part of l
  float out[kHeadDim / 2] = {};

  // Attends to the keys of a walk's steps [begin, end), of which there is at least one. `query` is
  // the address of the warpgroup's rows among the block's; `scale` that of scores in base 2.
  template <class Walk>
  __device__ void attend(KeyStages<kHeadDim>& keys, uint32_t query, float scale, const Walk& walk,
                         const Sight& sight, int begin, int end) {
    float scores[kWalkKeys / 2];
    multiply_scores(keys, query, scores, begin);
    hopper::wait_products<0>();
    keys.key().release(begin);
    sight.mask(scores, walk.first_key(begin), -INFINITY);
    rescale(exponentiate(scores, scale));
    uint32_t left[kWalkKeys / 16][4];
    pack_operand(scores, left);
    Turns turns(computing_group(), end - begin - 1);
    for (int step = begin + 1; step < end; ++step) {
      turns.take();
      multiply_scores(keys, query, scores, step);
      sum_values(keys, left, step - 1);
      turns.pass();
      hopper::wait_products<1>();
      keys.key().release(step);
      sight.mask(scores, walk.first_key(step), -INFINITY);
      const float2 factor = exponentiate(scores, scale);
      hopper::wait_products<0>();
      keys.value().release(step - 1);
      if (__any_sync(0xffffffffU, factor.x != 1.0F || factor.y != 1.0F)) rescale(factor);
      pack_operand(scores, left);
    }
    sum_values(keys, left, end - 1);
    hopper::wait_products<0>();
    keys.value().release(end - 1);
  }

 private:
  // By how much a score in base 2 may exceed m: sums up to 256 times larger are as exact, and most
  // steps need not rescale them.
  static constexpr float kSlack = 8.0F;

  __device__ static void multiply_scores(KeyStages<kHeadDim>& keys, uint32_t query,
                                         float (&scores)[kWalkKeys / 2], int step) {
    const uint32_t key = keys.key().wait(step);
    hopper::begin_products();
    multiply_nt<kHeadDim, kWalkRows, kWalkKeys>(scores, query, key);
    hopper::commit_products();
  }

  __device__ void sum_values(KeyStages<kHeadDim>& keys, const uint32_t (&left)[kWalkKeys / 16][4],
                             int step) {
    const uint32_t value = keys.value().wait(step);
    hopper::begin_products();
    multiply_nn<kHeadDim, kWalkKeys>(out, left, value);
    hopper::commit_products();
  }

  // Turns scores into exp(score - m); returns what the sums so far of each half's row have to be
  // multiplied by, and multiplies l.
  __device__ float2 exponentiate(float (&scores)[kWalkKeys / 2], float scale) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int j = 0; j < kWalkKeys / 8; ++j) {
        largest = fmaxf(largest, fmaxf(scores[4 * j + 2 * half], scores[4 * j + 2 * half + 1]));
      }
      const float before = max[half];
      const float now = row_max(largest) * scale;
      if (now > before + kSlack) max[half] = now;
      const float minus = max[half] == -INFINITY ? 0.0F : max[half];
      factor[half] = exp2_approximate(before - minus);
      float added = 0.0F;
#pragma unroll
      for (int j = 0; j < kWalkKeys / 8; ++j) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          scores[4 * j + e] = exp2_approximate(scores[4 * j + e] * scale - minus);
          added += scores[4 * j + e];
        }
      }
      sum[half] = sum[half] * factor[half] + added;
    }
    return {factor[0], factor[1]};
  }

  __device__ void rescale(float2 factor) {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) out[i] *= i % 4 < 2 ? factor.x : factor.y;
  }
};

}  // namespace swiattn::gpu
