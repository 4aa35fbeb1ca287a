// A small model on a GPU in bfloat16, and what it takes to train it.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "loss/regularizer.h"
#include "model/causal_lm.h"
#include "parallel/device.h"
#include "small_models.h"

namespace swiattn {

inline const c10::Device kGpu(c10::kCUDA, 0);

// Two query heads for each KV head.
inline ModelConfig gpu_model_config(Architecture architecture, int64_t hidden_size,
                                    int64_t head_dim) {
  ModelConfig config = small_config(architecture);
  config.hidden_size = hidden_size;
  config.intermediate_size = 4 * hidden_size;
  config.heads = hidden_size / head_dim;
  config.kv_heads = config.heads / 2;
  config.head_dim = head_dim;
  config.max_positions = 1 << 20;
  return config;
}

inline Objective gpu_model_objective(bool with_router) {
  const auto kind = with_router ? RegularizerKind::kAdaptive : RegularizerKind::kNone;
  return {gamma_coefficients({kind, 0.3, 0.1, 100.0}), DisagreementReduction::kMean, true};
}

struct GpuModel {
  GpuModel(const ModelConfig& config, const CausalLmOptions& options, bool with_router,
           std::unique_ptr<AttentionBackend> backend)
      : parameters(parameter_table(config, with_router), {}, at::kBFloat16, kGpu,
                   FlatParameters::Purpose::kTraining),
        model(config, options, parameters, operations_for(kGpu), std::move(backend)) {
    auto weights = random_weights(config, with_router, 3);
    // As a trained model has them, so that numbers stay in range.
    for (auto& [name, tensor] : weights) {
      if (tensor.dim() == 2) tensor.mul_(0.2);
    }
    load(parameters, weights);
  }

  FlatParameters parameters;
  CausalLm model;
};

}  // namespace swiattn
