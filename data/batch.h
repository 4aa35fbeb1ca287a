// What the batch stream hands to a training or validation step: one micro-batch of packed samples.
#pragma once

#include <cstdint>
#include <vector>

namespace swiattn {

// B samples of S tokens each, laid end to end. Token index t = b * S + position in the sample.
struct Batch {
  static constexpr int32_t kIgnoredTarget = -1;

  int64_t sequences = 0;           // B
  int64_t sequence_length = 0;     // S
  std::vector<int32_t> inputs;     // [B*S] token ids
  std::vector<int32_t> targets;    // [B*S] the next token's id, or kIgnoredTarget
  std::vector<int32_t> positions;  // [B*S] index in the document (or in the sample, see below)
  // Attention stays between document_starts[i] and document_starts[i + 1]; the first entry is 0,
  // the last B*S, and every sample begins a new document. [documents + 1]
  std::vector<int32_t> document_starts;
  std::vector<int64_t> samples;  // [B] number of each sample in the run's order

  int64_t tokens() const { return sequences * sequence_length; }
};

}  // namespace swiattn
