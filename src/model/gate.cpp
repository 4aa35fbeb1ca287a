#include "model/gate.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/check.h"

namespace swiattn {
namespace {

DrawnTokens drawn_tokens(const Gate& gate, const MicroBatch& batch, int64_t layer) {
  return {gate.seed, layer, batch.samples, batch.sequence_length};
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

at::Tensor Gate::decide(const Operations& operations, const at::Tensor& logits,
                        const MicroBatch& batch, int64_t layer) const {
  switch (kind) {
    case GateKind::kRandom:
      return operations.draw_rows(drawn_tokens(*this, batch, layer), ratio);
    case GateKind::kTopK:
      return largest(logits, batch, ratio);
    case GateKind::kLearned:
      break;
  }
  return logits > 0;
}

SampledRows Gate::sample(const Operations& operations, const at::Tensor& logits,
                         const at::Tensor& route, const MicroBatch& batch, int64_t layer) const {
  SWIATTN_CHECK(far_sampling.has_value(), "the gate does not sample");
  return operations.sample_rows(drawn_tokens(*this, batch, layer), *far_sampling,
                                {logits, ratio, route, batch.layout.position, batch.layout.window});
}

}  // namespace swiattn
