// How the attention of a trained model chooses between all keys and a window, as the section
// "swiattn" of an exported config.json says it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/model_config.h"

namespace swiattn {

struct HybridAttention {
  std::string mode = "switch";       // switch | static | window | full
  int64_t window = 1024;             // keys, the query's own included
  std::vector<int64_t> full_layers;  // static: layers with full attention, counted from 1
  std::string gate = "learned";      // switch: learned | random | top_k
  std::optional<double> ratio;       // of full tokens, for the gates random and top_k

  bool has_router() const { return mode == "switch" && gate != "random"; }
  bool operator==(const HybridAttention&) const = default;
};

// The section of a config that has one; nothing for a plain model. Throws Error{kCheckpoint}.
std::optional<HybridAttention> read_hybrid_attention(const ModelConfig& config,
                                                     const std::string& source_name);

Json hybrid_attention_json(const HybridAttention& attention);

}  // namespace swiattn
