#include "model/layer_saved.h"

#include <utility>

#include "parallel/accumulation_type.h"

namespace swiattn {

void LayerSaved::drop(Recompute recompute) {
  if (recompute == Recompute::kNone) return;
  LayerSaved kept;
  kept.entry = entry;
  kept.logits = logits;
  kept.weight = weight;
  if (recompute == Recompute::kSelective) {
    kept.attention = attention;
  } else {
    kept.attention.route = attention.route;
    kept.attention.both = attention.both;
    kept.attention.disagreement = attention.disagreement;
  }
  *this = std::move(kept);
}

int64_t kept_bytes_per_token(Recompute recompute, const ModelConfig& config,
                             LayerAttention attention, const Gate& gate,
                             at::ScalarType compute_type) {
  const auto element = static_cast<int64_t>(c10::elementSize(compute_type));
  const auto wide = static_cast<int64_t>(c10::elementSize(accumulation_type(compute_type)));
  const bool chooses = attention == LayerAttention::kSwitch;
  const int64_t stream = config.hidden_size * element;
  int64_t bytes = stream;
  if (chooses) bytes += wide + 1;                    // disagreement, route
  if (chooses && gate.far_sampling) bytes += 4 + 1;  // weight, which tokens
  if (chooses && gate.has_router()) bytes += wide;   // logits
  if (recompute == Recompute::kLayer) return bytes;

  const int64_t out = config.heads * config.head_dim * element;
  const int64_t logsumexp = config.heads * wide;
  bytes += logsumexp + (chooses ? 2 * out : out);
  if (recompute == Recompute::kSelective) return bytes;

  const int64_t projected = config.heads + 2 * config.kv_heads;
  bytes += projected * config.head_dim * element;
  if (config.qk_norm) {  // before the norm
    bytes += (config.heads + config.kv_heads) * config.head_dim * element;
  }
  bytes += stream + wide;      // the first norm; the stream at the entry is counted already
  bytes += 2 * stream + wide;  // the stream after attention and its norm
  return bytes + 2 * config.intermediate_size * element;
}

}  // namespace swiattn
