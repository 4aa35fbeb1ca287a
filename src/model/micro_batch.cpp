#include "model/micro_batch.h"

#include <ATen/ATen.h>

#include <utility>

#include "parallel/transfer.h"

namespace swiattn {
namespace {

template <class Number>
at::Tensor borrow(std::span<const Number> values) {
  return at::from_blob(const_cast<Number*>(values.data()), {static_cast<int64_t>(values.size())},
                       c10::CppTypeToScalarType<Number>::value);
}

}  // namespace

MicroBatchMaker::MicroBatchMaker(RotaryFrequencies frequencies, int64_t window,
                                 at::ScalarType compute_type, c10::Device device)
    : frequencies_(std::move(frequencies)),
      window_(window),
      compute_type_(compute_type),
      device_(device) {}

MicroBatch MicroBatchMaker::make(const PackedTokens& packed) {
  MicroBatch batch;
  batch.sequences = packed.sequences;
  batch.sequence_length = packed.sequence_length;
  // Widened on the device: half the bytes to copy, and nothing for the host to do.
  const std::vector<at::Tensor> tokens = upload({borrow(packed.inputs), borrow(packed.targets),
                                                 borrow(packed.positions), borrow(packed.samples)},
                                                device_);
  batch.ids = tokens[0].to(at::kLong);
  batch.targets = tokens[1].to(at::kLong);
  batch.counted = batch.targets >= 0;
  batch.samples = tokens[3];
  batch.layout = make_document_layout(
      {packed.document_starts.begin(), packed.document_starts.end()}, window_, device_);
  batch.rotary = rotary_rows(tokens[2], packed.sequence_length);
  return batch;
}

RotaryTable MicroBatchMaker::rotary_rows(const at::Tensor& positions, int64_t sequence_length) {
  if (!rotary_.cosine.defined() || rotary_.cosine.size(0) < sequence_length) {
    rotary_ = make_rotary_table(at::arange(sequence_length, positions.options()),
                                frequencies_.inverse, frequencies_.attention_factor, compute_type_);
  }
  return {rotary_.cosine.index_select(0, positions), rotary_.sine.index_select(0, positions)};
}

}  // namespace swiattn
