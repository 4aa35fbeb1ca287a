#include "model/micro_batch.h"

#include <ATen/ATen.h>

namespace swiattn {
namespace {

// Converted on the host: the device gets one copy and no kernel.
at::Tensor to_device(std::span<const int32_t> values, at::ScalarType type, c10::Device device) {
  const at::Tensor host = at::from_blob(const_cast<int32_t*>(values.data()),
                                        {static_cast<int64_t>(values.size())}, at::kInt)
                              .to(type);
  return host.to(device);
}

}  // namespace

MicroBatch make_micro_batch(const PackedTokens& packed, const RotaryFrequencies& frequencies,
                            int64_t window, at::ScalarType compute_type, c10::Device device) {
  MicroBatch batch;
  batch.sequences = packed.sequences;
  batch.sequence_length = packed.sequence_length;
  batch.ids = to_device(packed.inputs, at::kLong, device);
  batch.targets = to_device(packed.targets, at::kLong, device);
  batch.counted = batch.targets >= 0;
  batch.samples.assign(packed.samples.begin(), packed.samples.end());
  batch.layout = make_document_layout(
      {packed.document_starts.begin(), packed.document_starts.end()}, window, device);
  batch.rotary = make_rotary_table(to_device(packed.positions, at::kInt, device),
                                   frequencies.inverse, frequencies.attention_factor, compute_type);
  return batch;
}

}  // namespace swiattn
