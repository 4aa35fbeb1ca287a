#include "model/gate.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/counter_random.h"
#include "parallel/transfer.h"

namespace swiattn {
namespace {

at::Tensor draw(const Gate& gate, const MicroBatch& batch, int64_t layer) {
  at::Tensor route = at::empty({batch.tokens()}, at::kBool);
  bool* full = route.mutable_data_ptr<bool>();
  for (int64_t b = 0; b < batch.sequences; ++b) {
    const auto sample = static_cast<uint64_t>(batch.samples[b]);
    for (int64_t position = 0; position < batch.sequence_length; ++position) {
      const uint64_t bits = counter_bits(
          {gate.seed, static_cast<uint64_t>(layer), sample, static_cast<uint64_t>(position)});
      full[b * batch.sequence_length + position] = uniform_from_bits(bits) < gate.ratio;
    }
  }
  return upload({route}, batch.ids.device()).front();
}

at::Tensor largest(const at::Tensor& logits, const MicroBatch& batch, double ratio) {
  const at::Tensor rows = logits.view({batch.sequences, batch.sequence_length});
  const auto count =
      static_cast<int64_t>(std::ceil(ratio * static_cast<double>(batch.sequence_length)));
  const at::Tensor order = std::get<1>(at::sort(rows, /*stable=*/true, -1, /*descending=*/true));
  at::Tensor route = at::zeros(rows.sizes(), rows.options().dtype(at::kBool));
  route.scatter_(1, order.narrow(1, 0, count), true);
  return route.flatten();
}

}  // namespace

at::Tensor Gate::decide(const at::Tensor& logits, const MicroBatch& batch, int64_t layer) const {
  switch (kind) {
    case GateKind::kRandom:
      return draw(*this, batch, layer);
    case GateKind::kTopK:
      return largest(logits, batch, ratio);
    case GateKind::kLearned:
      break;
  }
  return logits > 0;
}

}  // namespace swiattn
