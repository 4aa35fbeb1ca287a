// What a micro-batch must hold: the packed tokens, and the rotary angles of their positions.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "model/micro_batch.h"

namespace swiattn {

struct HostTokens {
  int64_t sequences = 0, length = 0;
  std::vector<int32_t> inputs, targets, positions, starts{0};
  std::vector<int64_t> samples;

  PackedTokens packed() const {
    return {sequences, length, inputs, targets, positions, starts, samples};
  }
};

// Documents that end with the sequence; some targets are ignored.
inline HostTokens host_tokens(int64_t sequences, int64_t length, uint64_t seed) {
  HostTokens tokens{.sequences = sequences, .length = length};
  std::mt19937_64 random(seed);
  for (int64_t b = 0; b < sequences; ++b) {
    tokens.samples.push_back(static_cast<int64_t>(random() % 1000));
    int32_t position = 0;
    for (int64_t i = 0; i < length; ++i) {
      tokens.inputs.push_back(static_cast<int32_t>(random() % 61));
      tokens.targets.push_back(static_cast<int32_t>(random() % 61) - 1);
      tokens.positions.push_back(position++);
      if (i + 1 < length && random() % 7 != 0) continue;
      tokens.starts.push_back(static_cast<int32_t>(tokens.inputs.size()));
      position = 0;
    }
  }
  return tokens;
}

inline void expect_micro_batch(const MicroBatch& batch, const HostTokens& tokens,
                               const RotaryFrequencies& frequencies, int64_t window,
                               at::ScalarType type, c10::Device device) {
  const auto expected = [&](const std::vector<int32_t>& values) {
    return at::tensor(values, at::kInt).to(at::kLong);
  };
  EXPECT_EQ(batch.sequences, tokens.sequences);
  EXPECT_EQ(batch.sequence_length, tokens.length);
  EXPECT_TRUE(at::equal(batch.samples.cpu(), at::tensor(at::IntArrayRef(tokens.samples))));
  EXPECT_EQ(batch.ids.scalar_type(), at::kLong);
  EXPECT_EQ(batch.targets.scalar_type(), at::kLong);
  EXPECT_TRUE(at::equal(batch.ids.cpu(), expected(tokens.inputs)));
  EXPECT_TRUE(at::equal(batch.targets.cpu(), expected(tokens.targets)));
  EXPECT_TRUE(at::equal(batch.counted.cpu(), expected(tokens.targets) >= 0));
  EXPECT_EQ(batch.layout.starts, tokens.starts);
  EXPECT_EQ(batch.layout.window, window);
  EXPECT_TRUE(at::equal(batch.layout.position.cpu(), expected(tokens.positions)));
  // The same bits as angles computed for every token.
  const RotaryTable rotary =
      make_rotary_table(at::tensor(tokens.positions, at::kInt).to(device), frequencies.inverse,
                        frequencies.attention_factor, type);
  EXPECT_EQ(batch.rotary.cosine.scalar_type(), rotary.cosine.scalar_type());
  EXPECT_TRUE(batch.rotary.cosine.is_contiguous());
  EXPECT_TRUE(at::equal(batch.rotary.cosine, rotary.cosine));
  EXPECT_TRUE(at::equal(batch.rotary.sine, rotary.sine));
}

}  // namespace swiattn
