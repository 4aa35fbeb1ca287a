// Random numbers as pure functions of counters. Nothing in a run has a generator with a state: what
// is drawn depends on the seed and on what it is drawn for, so that resumes, ranks and
// recomputation repeat it exactly and checkpoints have no generator to save.
#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>

namespace swiattn {

// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits that mixes well.
constexpr uint64_t mix_bits(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// 64 random bits that belong to this sequence of counters, in this order.
constexpr uint64_t counter_bits(std::initializer_list<uint64_t> counters) {
  uint64_t hash = 0x243f6a8885a308d3ULL;
  for (uint64_t counter : counters) hash = mix_bits(hash ^ mix_bits(counter));
  return hash;
}

// Uniform in [0, 1) with 53 bits.
constexpr double uniform_from_bits(uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// Standard normal by Box-Muller from two words.
inline double normal_from_bits(uint64_t first, uint64_t second) {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform_from_bits(first)));
  return radius * std::cos(6.283185307179586 * uniform_from_bits(second));
}

}  // namespace swiattn
