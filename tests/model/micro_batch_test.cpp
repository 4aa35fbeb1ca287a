#include "model/micro_batch.h"

#include <gtest/gtest.h>

#include "expected_micro_batch.h"
#include "small_models.h"

namespace swiattn {
namespace {

TEST(MicroBatchTest, HoldsTheTokensAndTheirAngles) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const RotaryFrequencies frequencies = rotary_frequencies(small_config(Architecture::kLlama));
    MicroBatchMaker maker(frequencies, 8, type, at::kCPU);
    // Shorter and longer than before, odd ones, one token.
    uint64_t seed = 1;
    for (const int64_t length : {32, 7, 33, 1, 257, 64}) {
      const HostTokens tokens = host_tokens(3, length, ++seed);
      expect_micro_batch(maker.make(tokens.packed()), tokens, frequencies, 8, type, at::kCPU);
    }
  }
}

TEST(MicroBatchTest, OutlivesWhatItWasMadeFrom) {
  const RotaryFrequencies frequencies = rotary_frequencies(small_config(Architecture::kLlama));
  MicroBatchMaker maker(frequencies, 8, at::kFloat, at::kCPU);
  const HostTokens tokens = host_tokens(2, 50, 3);
  HostTokens gone = tokens;
  const MicroBatch batch = maker.make(gone.packed());
  for (auto* values : {&gone.inputs, &gone.targets, &gone.positions, &gone.starts}) {
    std::fill(values->begin(), values->end(), -7);
  }
  maker.make(host_tokens(2, 300, 4).packed());
  expect_micro_batch(batch, tokens, frequencies, 8, at::kFloat, at::kCPU);
}

}  // namespace
}  // namespace swiattn
