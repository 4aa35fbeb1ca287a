// The shape of a decoder-only language model, as a Hugging Face config.json describes it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace swiattn {

enum class Architecture { kLlama, kMistral, kQwen2, kQwen3 };
const char* to_string(Architecture architecture);  // "llama", … as in model_type

// What config.json files and extensions of a context may say.
inline constexpr int64_t kLongestContext = 1LL << 40;
inline constexpr double kLargestRopeFactor = 1e6;

// How rotary frequencies are changed to reach longer contexts. Kinds and fields as in transformers'
// modeling_rope_utils; fields that a kind does not use keep their defaults.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kNone;
  double factor = 1.0;
  int64_t original_length = 0;      // original_max_position_embeddings
  double low_frequency_factor = 1;  // llama3
  double high_frequency_factor = 4;
  double beta_fast = 32;  // yarn
  double beta_slow = 1;
  // yarn: what cos and sin are multiplied by; when absent, it follows from factor and mscale
  std::optional<double> attention_factor = std::nullopt;
  std::optional<double> mscale = std::nullopt;
  std::optional<double> mscale_all_dim = std::nullopt;
  bool truncate = true;  // yarn: whether the correction range is rounded to whole dimensions

  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t layers = 0;
  int64_t heads = 0;     // query heads, Hq
  int64_t kv_heads = 0;  // key/value heads, Hkv; divides heads
  int64_t head_dim = 0;  // D; even
  int64_t max_positions = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tied_embeddings = false;
  bool qkv_bias = false;  // q, k and v carry a bias (Qwen2); o never does
  bool qk_norm = false;   // RMSNorm over D on queries and keys before RoPE (Qwen3)
  double initializer_range = 0.02;
  std::vector<int64_t> eos_ids;
  std::optional<int64_t> bos_id;
  std::string dtype = "bfloat16";  // of the folder: float32 | bfloat16 | float16

  // The config.json this came from, whole, so that an export gives back what it does not touch.
  Json source;

  int64_t qkv_size() const { return (heads + 2 * kv_heads) * head_dim; }
  int64_t parameter_count(bool with_router) const;
};

// Reads a config.json (transformers 4 or 5 keys; model_type may be one of the four or "swiattn_"
// and one of the four). Throws Error{kCheckpoint} naming file and key for a missing or impossible
// value, an architecture not supported, or a feature that would change the mathematics and is not
// implemented (per-layer sliding windows, MLP biases, other activations, partial rotary, MoE …).
ModelConfig parse_model_config(const Json& json, const std::string& source_name);
ModelConfig read_model_config(const std::string& path);  // of a config.json file

// Changes the rotary frequencies of `config` to `scaling` and the longest context with them, to
// original_length * factor. An original_length of 0 means the config's max_positions. Throws
// Error{kConfiguration} when that is longer than kLongestContext.
void extend_context(ModelConfig& config, RopeScaling scaling);

}  // namespace swiattn
