// Rounding to bfloat16 up or down at random, each with the probability that makes the mean exact: a
// moment that grows by less than half a step of bfloat16 grows nevertheless. The draws are hashes
// of counters, the same on CPUs and GPUs, so that a resume repeats them.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/counter_random.h"
#include "base/host_device.h"

namespace swiattn {

// `value` as float32 that is exactly a bfloat16: up with the probability of its distance from the
// one below over their step. `draw` is uniform in [0, 2^16). Infinities stay; NaN must not come.
SWIATTN_HOST_DEVICE inline float round_stochastically(float value, uint32_t draw) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  bits = (bits + draw) & 0xffff0000U;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// What the draws of one update of one unit are made from.
SWIATTN_HOST_DEVICE constexpr uint64_t rounding_key(uint64_t seed, uint64_t updates,
                                                    uint64_t unit) {
  constexpr uint64_t kRoundingStream = 0x6d6f6d656e74;  // keeps these draws apart from all others
  return counter_bits({kRoundingStream, seed, updates, unit});
}

// Four draws of 16 bits, two each for elements 2 * pair and 2 * pair + 1: the outputs of SplitMix64
// from `key` on.
SWIATTN_HOST_DEVICE constexpr uint64_t rounding_word(uint64_t key, int64_t pair) {
  return mix_bits(key + static_cast<uint64_t>(pair) * 0x9e3779b97f4a7c15ULL);
}

// The draw for a moment (0 or 1) of the pair's first or second element (0 or 1).
SWIATTN_HOST_DEVICE constexpr uint32_t rounding_draw(uint64_t word, int element, int moment) {
  return static_cast<uint32_t>(word >> (32 * element + 16 * moment)) & 0xffffU;
}

}  // namespace swiattn
