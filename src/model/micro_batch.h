// One micro-batch on its device, with everything that all layers share.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <span>
#include <vector>

#include "attention/document_layout.h"
#include "model/rope_frequencies.h"
#include "ops/rotary.h"

namespace swiattn {

// Packed tokens in host memory: B sequences of S tokens laid end to end, T = B * S.
struct PackedTokens {
  int64_t sequences = 0;
  int64_t sequence_length = 0;
  std::span<const int32_t> inputs;           // [T]
  std::span<const int32_t> targets;          // [T], negative where ignored
  std::span<const int32_t> positions;        // [T], for the rotary embedding, below S
  std::span<const int32_t> document_starts;  // [documents + 1]
  std::span<const int64_t> samples;          // [B] numbers in the run's order, for draws
};

struct MicroBatch {
  int64_t sequences = 0;        // B
  int64_t sequence_length = 0;  // S
  at::Tensor ids;               // [T] int64
  at::Tensor targets;           // [T] int64, -1 where ignored
  at::Tensor counted;           // [T] bool, targets >= 0
  at::Tensor samples;           // [B] int64
  DocumentLayout layout;
  RotaryTable rotary;

  int64_t tokens() const { return sequences * sequence_length; }
};

// Brings packed tokens to a device, with what depends on them. Not thread-safe.
class MicroBatchMaker {
 public:
  MicroBatchMaker(RotaryFrequencies frequencies, int64_t window, at::ScalarType compute_type,
                  c10::Device device);

  // Queues the work on the device and returns without waiting for it; `packed` may go away then.
  // Only the first call and longer sequences than before wait, for the rotary angles.
  MicroBatch make(const PackedTokens& packed);

 private:
  RotaryTable rotary_rows(const at::Tensor& positions, int64_t sequence_length);

  RotaryFrequencies frequencies_;
  int64_t window_;
  at::ScalarType compute_type_;
  c10::Device device_;
  RotaryTable rotary_;  // of the positions 0, 1, … as far as they were needed
};

}  // namespace swiattn
