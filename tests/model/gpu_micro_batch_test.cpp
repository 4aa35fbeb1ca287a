#include <gtest/gtest.h>

#include "expected_micro_batch.h"
#include "small_models.h"

namespace swiattn {
namespace {

TEST(GpuMicroBatchTest, HoldsTheTokensAndTheirAngles) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const RotaryFrequencies frequencies = rotary_frequencies(small_config(Architecture::kLlama));
    MicroBatchMaker maker(frequencies, 8, type, at::kCUDA);
    uint64_t seed = 1;
    for (const int64_t length : {32, 7, 33, 1, 4099, 64}) {
      const HostTokens tokens = host_tokens(3, length, ++seed);
      expect_micro_batch(maker.make(tokens.packed()), tokens, frequencies, 8, type, at::kCUDA);
    }
  }
}

// Several may be on their way at once, as when the host is ahead of the device.
TEST(GpuMicroBatchTest, KeepsMicroBatchesApart) {
  const RotaryFrequencies frequencies = rotary_frequencies(small_config(Architecture::kLlama));
  MicroBatchMaker maker(frequencies, 8, at::kBFloat16, at::kCUDA);
  std::vector<HostTokens> tokens;
  std::vector<MicroBatch> made;
  for (uint64_t i = 0; i < 20; ++i) {
    tokens.push_back(host_tokens(2, 1024, i));
    const HostTokens gone = tokens.back();
    made.push_back(maker.make(gone.packed()));
  }
  for (size_t i = 0; i < made.size(); ++i) {
    expect_micro_batch(made[i], tokens[i], frequencies, 8, at::kBFloat16, at::kCUDA);
  }
}

}  // namespace
}  // namespace swiattn
