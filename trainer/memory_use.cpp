#include "trainer/memory_use.h"

#include <c10/core/ScalarType.h>
#include <fmt/format.h>

#include <algorithm>

#include "ops/linear_cross_entropy.h"

namespace swiattn {
namespace {

int64_t bytes_of(const at::Tensor& buffer) {
  return buffer.defined() ? static_cast<int64_t>(buffer.nbytes()) : 0;
}

// Beside what the layers keep: the stream, its norm and the gradient of that; logits in float32,
// and their gradients, or the temporary of the reference.
int64_t head_activations(const ModelConfig& config, at::ScalarType compute_type, int64_t tokens) {
  const auto element = static_cast<int64_t>(c10::elementSize(compute_type));
  const CrossEntropyRows rows = compute_type == at::kBFloat16
                                    ? fused_cross_entropy_rows(config.vocab_size)
                                    : reference_cross_entropy_rows(config.vocab_size);
  const int64_t logits = std::min(tokens, rows.logits) * config.vocab_size;
  const int64_t gradients = std::min(tokens, rows.gradients) * config.vocab_size;
  return 3 * tokens * config.hidden_size * element + 4 * logits + element * gradients;
}

}  // namespace

MemoryUse memory_use(const FlatParameters& parameters) {
  MemoryUse use;
  for (const FlatUnit& unit : parameters.units()) {
    use.weights += bytes_of(unit.master);
    if (!unit.compute.is_same(unit.master)) use.weights += bytes_of(unit.compute);
    use.gradients += bytes_of(unit.gradient);
    use.moments += bytes_of(unit.moment1) + bytes_of(unit.moment2);
  }
  return use;
}

int64_t kept_activations(Recompute recompute, const ModelConfig& config,
                         const CausalLmOptions& options, at::ScalarType compute_type,
                         int64_t tokens) {
  int64_t bytes = 0;
  for (const LayerAttention attention : options.attention) {
    bytes +=
        tokens * kept_bytes_per_token(recompute, config, attention, options.gate, compute_type);
  }
  return bytes;
}

int64_t peak_activations(Recompute recompute, const ModelConfig& config,
                         const CausalLmOptions& options, at::ScalarType compute_type,
                         int64_t tokens) {
  const auto element = static_cast<int64_t>(c10::elementSize(compute_type));
  // Behind the layer, and of silu(gate) up; those of gate and up stand in their place.
  const int64_t gradients = (config.hidden_size + config.intermediate_size) * element;
  const auto bytes = [&](Recompute mode, LayerAttention attention) {
    return kept_bytes_per_token(mode, config, attention, options.gate, compute_type);
  };
  int64_t before = 0, peak = 0;
  for (const LayerAttention attention : options.attention) {
    peak = std::max(peak, before + bytes(Recompute::kNone, attention) + gradients);
    before += bytes(recompute, attention);
  }
  return std::max(tokens * peak, tokens * before + head_activations(config, compute_type, tokens));
}

std::string describe_bytes(int64_t bytes) {
  constexpr double kGib = 1 << 30;
  const auto value = static_cast<double>(bytes);
  return value < kGib ? fmt::format("{:.1f} MiB", 1024 * value / kGib)
                      : fmt::format("{:.2f} GiB", value / kGib);
}

std::string describe_memory(const MemoryUse& use) {
  return fmt::format("weights {}, gradients {}, moments {}", describe_bytes(use.weights),
                     describe_bytes(use.gradients), describe_bytes(use.moments));
}

std::string describe_peak_memory(const MemoryUse& use, int64_t peak, c10::Device device) {
  return fmt::format("Memory at its peak: {}, activations{} {}; {} together.", describe_memory(use),
                     device.is_cpu() ? ", workspace and program" : " and workspace",
                     describe_bytes(peak - use.total()), describe_bytes(peak));
}

}  // namespace swiattn
