// A model to be evaluated: an HF folder (full-attention or hybrid export) or a checkpoint of a run.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <optional>
#include <string>

#include "model/causal_lm.h"
#include "model/hybrid_attention.h"

namespace swiattn {

// How to attend where that is not what the model was trained with: a base model with a bare window,
// a hybrid with full attention everywhere.
struct AttentionOverride {
  std::string mode;  // full | window | static | switch; "" for the model's own
  std::optional<int64_t> window;
};

// Owns weights and model. Computes in float32 on the CPU and in bfloat16 on a GPU.
class EvaluationModel {
 public:
  // Throws Error{kCheckpoint} for a folder that cannot be read or a hybrid that lacks a router, and
  // Error{kConfiguration} for an override that the model cannot follow (switch without routers).
  EvaluationModel(const std::string& path, const AttentionOverride& attention, c10::Device device);

  const CausalLm& model() const { return *model_; }
  const HybridAttention& attention() const { return attention_; }
  const std::string& path() const { return path_; }  // where its tokenizer is looked for

 private:
  std::string path_;
  HybridAttention attention_;
  std::unique_ptr<FlatParameters> parameters_;
  std::unique_ptr<CausalLm> model_;
};

}  // namespace swiattn
