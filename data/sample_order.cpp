#include "data/sample_order.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/counter_random.h"

namespace swiattn {
namespace {

constexpr uint64_t kRounds = 8;
constexpr uint64_t kShuffleStream = 0x73687566666c65;  // keeps these draws apart from all others

std::vector<double> weights_of(const std::vector<SampleOrder::Source>& sources) {
  std::vector<double> weights;
  for (const SampleOrder::Source& source : sources) weights.push_back(source.weight);
  return weights;
}

}  // namespace

int64_t permute(int64_t index, int64_t count, uint64_t key) {
  SWIATTN_CHECK(0 <= index && index < count, "index {} of {}", index, count);
  const int bits = std::bit_width(static_cast<uint64_t>(count - 1));
  const int half_bits = std::max(1, (bits + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  auto value = static_cast<uint64_t>(index);
  do {
    uint64_t left = value >> half_bits;
    uint64_t right = value & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (counter_bits({key, round, right}) & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits | right;
  } while (value >= static_cast<uint64_t>(count));
  return static_cast<int64_t>(value);
}

SampleOrder::SampleOrder(const std::vector<Source>& sources, bool shuffle, uint64_t seed)
    : mixture_(weights_of(sources)), shuffle_(shuffle), seed_(seed) {
  for (const Source& source : sources) {
    SWIATTN_CHECK(source.samples > 0, "a source without samples");
    samples_.push_back(source.samples);
  }
}

SampleOrder::Place SampleOrder::place(int64_t sample) {
  const Mixture::Draw draw = mixture_.draw(sample);
  const int64_t count = samples_[draw.source];
  const int64_t pass = draw.number / count;
  const int64_t index = draw.number % count;
  if (!shuffle_) return {draw.source, index};
  const uint64_t key =
      counter_bits({kShuffleStream, seed_, draw.source, static_cast<uint64_t>(pass)});
  return {draw.source, permute(index, count, key)};
}

}  // namespace swiattn
