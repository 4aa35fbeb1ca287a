// Small random models of the four architectures, for tests of the mathematics.
#pragma once

#include <ATen/ATen.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "model/model_config.h"
#include "model/parameter_table.h"

namespace swiattn {

inline ModelConfig small_config(Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 61;
  config.hidden_size = 24;
  config.intermediate_size = 40;
  config.layers = 3;
  config.heads = 6;
  config.kv_heads = 2;
  config.head_dim = 8;
  config.max_positions = 512;
  config.rms_norm_eps = 1e-5;
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  config.tied_embeddings = architecture != Architecture::kMistral;
  return config;
}

// Weights large enough that attention is far from uniform and routes are mixed; norms around one.
// Values are exactly representable in float32, so that both precisions begin alike.
inline std::map<std::string, at::Tensor> random_weights(const ModelConfig& config, bool with_router,
                                                        uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::map<std::string, at::Tensor> weights;
  for (const ParameterUnit& unit : parameter_table(config, with_router)) {
    for (const ParameterGroup& group : unit.groups) {
      for (const ParameterSpec& spec : group.members) {
        at::Tensor tensor = at::empty(spec.shape, at::kDouble);
        auto* values = tensor.mutable_data_ptr<double>();
        const bool is_norm = spec.role == ParameterRole::kNorm;
        const double scale = is_norm ? 0.1 : spec.role == ParameterRole::kRouter ? 0.2 : 0.25;
        for (int64_t i = 0; i < tensor.numel(); ++i) {
          values[i] = static_cast<float>((is_norm ? 1.0 : 0.0) + scale * normal(random));
        }
        weights[spec.name] = tensor;
      }
    }
  }
  return weights;
}

inline void load(FlatParameters& parameters, const std::map<std::string, at::Tensor>& weights) {
  for (FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      unit.master_view(segment).copy_(weights.at(segment.spec.name));
    }
  }
  parameters.refresh_compute_copies();
}

}  // namespace swiattn
