#include "model/model_config.h"

#include <cmath>

#include "base/check.h"
#include "model/rope_config.h"

namespace swiattn {
namespace {

constexpr int64_t kLargest = 1LL << 31;
constexpr std::string_view kHybridPrefix = "swiattn_";

Architecture parse_architecture(const JsonCursor& json) {
  std::string type = json["model_type"].string();
  if (type.starts_with(kHybridPrefix)) type.erase(0, kHybridPrefix.size());
  for (const Architecture architecture :
       {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2, Architecture::kQwen3}) {
    if (type == to_string(architecture)) return architecture;
  }
  json["model_type"].refuse(
      "a supported architecture (llama, mistral, qwen2, qwen3, or one of these after "
      "\"swiattn_\")");
}

bool boolean_or(const JsonCursor& json, const std::string& key, bool fallback) {
  return json.has(key) ? json[key].boolean() : fallback;
}

int64_t integer_or(const JsonCursor& json, const std::string& key, int64_t fallback) {
  return json.has(key) ? json[key].integer(1, kLargest) : fallback;
}

// Parts of a model that its config.json can switch on and that would need other mathematics.
void refuse_foreign_parts(const JsonCursor& json, Architecture architecture) {
  const bool has_bias_key =
      architecture == Architecture::kLlama || architecture == Architecture::kQwen3;
  if (has_bias_key && boolean_or(json, "attention_bias", false)) {
    json["attention_bias"].refuse("false (a bias on the attention projections is not implemented)");
  }
  if (architecture == Architecture::kLlama && boolean_or(json, "mlp_bias", false)) {
    json["mlp_bias"].refuse("false (a bias in the MLP is not implemented)");
  }
  if (json.has("hidden_act")) {
    const std::string activation = json["hidden_act"].string();
    if (activation != "silu" && activation != "swish") {
      json["hidden_act"].refuse("\"silu\" (other activations are not implemented)");
    }
  }
  if (json.has("quantization_config")) {
    json["quantization_config"].refuse(
        "no such key (quantized weights are not read: dequantize the model first)");
  }
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    if (json.has(key) && json[key].integer(0, kLargest) > 0) {
      json[key].refuse("no such key (mixtures of experts are not implemented)");
    }
  }
}

void refuse_layer_types(const JsonCursor& json) {
  const JsonCursor types = json["layer_types"];
  for (size_t layer = 0; layer < types.size(); ++layer) {
    if (types.at(layer).string() != "full_attention") {
      types.at(layer).refuse(
          "\"full_attention\" (a model whose own layers have sliding windows is not supported)");
    }
  }
}

// Windows that the pretrained model itself has. One that no context can outgrow changes nothing.
void refuse_own_windows(const JsonCursor& json, const ModelConfig& config) {
  if (json.has("layer_types")) return refuse_layer_types(json);
  if (config.architecture == Architecture::kMistral) {
    // transformers' default for a Mistral config without the key is a window of 4096.
    const bool absent = !json.value().contains("sliding_window");
    if (!absent && !json.has("sliding_window")) return;
    const int64_t window = absent ? 4096 : json["sliding_window"].integer(1, kLargest);
    if (window >= config.max_positions) return;
    (absent ? json : json["sliding_window"])
        .refuse(
            fmt::format("\"sliding_window\" to be null or at least max_position_embeddings ({}): "
                        "the model's own window of {} is not supported. To train it with full "
                        "attention, set sliding_window to null",
                        config.max_positions, window));
  }
  const bool qwen =
      config.architecture == Architecture::kQwen2 || config.architecture == Architecture::kQwen3;
  if (!qwen || !boolean_or(json, "use_sliding_window", false)) return;
  if (json.value().contains("sliding_window") && !json.has("sliding_window")) return;
  if (integer_or(json, "sliding_window", 4096) >= config.max_positions) return;
  const int64_t first =
      json.has("max_window_layers") ? json["max_window_layers"].integer(0, kLargest) : 28;
  if (first >= config.layers) return;
  json["use_sliding_window"].refuse(
      "false (a model whose own layers have sliding windows is not supported)");
}

std::vector<int64_t> parse_eos(const JsonCursor& json, Architecture architecture) {
  const bool llama_like =
      architecture == Architecture::kLlama || architecture == Architecture::kMistral;
  if (!json.value().contains("eos_token_id") && llama_like) return {2};  // transformers' default
  if (!json.has("eos_token_id")) return {};
  const JsonCursor eos = json["eos_token_id"];
  if (!eos.is_array()) return {eos.integer(-1, kLargest)};
  std::vector<int64_t> ids;
  for (size_t i = 0; i < eos.size(); ++i) ids.push_back(eos.at(i).integer(-1, kLargest));
  return ids;
}

std::string parse_dtype(const JsonCursor& json) {
  const char* key = json.has("dtype") ? "dtype" : "torch_dtype";
  if (!json.has(key)) return "float32";  // what transformers loads such a folder as
  std::string dtype = json[key].string();
  if (dtype.starts_with("torch.")) dtype.erase(0, 6);
  if (dtype != "float32" && dtype != "bfloat16" && dtype != "float16") {
    json[key].refuse("float32, bfloat16 or float16");
  }
  return dtype;
}

// With null every head has keys of its own; a key that is not there is transformers' default.
int64_t parse_kv_heads(const JsonCursor& json, const ModelConfig& config) {
  if (json.value().contains("num_key_value_heads")) {
    return integer_or(json, "num_key_value_heads", config.heads);
  }
  switch (config.architecture) {
    case Architecture::kLlama:
      break;
    case Architecture::kMistral:
      return 8;
    case Architecture::kQwen2:
    case Architecture::kQwen3:
      return 32;
  }
  return config.heads;
}

void parse_heads(const JsonCursor& json, ModelConfig& config) {
  config.heads = json["num_attention_heads"].integer(1, kLargest);
  config.kv_heads = parse_kv_heads(json, config);
  if (config.heads % config.kv_heads != 0) {
    json["num_key_value_heads"].refuse(
        fmt::format("a divisor of num_attention_heads ({})", config.heads));
  }
  const bool has_default_width =
      config.architecture == Architecture::kQwen3 && !json.value().contains("head_dim");
  if (has_default_width) {
    config.head_dim = 128;
  } else if (json.has("head_dim")) {
    config.head_dim = json["head_dim"].integer(1, kLargest);
  } else {
    if (config.hidden_size % config.heads != 0) {
      json["hidden_size"].refuse(
          fmt::format("a multiple of num_attention_heads ({}), or a head_dim", config.heads));
    }
    config.head_dim = config.hidden_size / config.heads;
  }
  if (config.head_dim % 2 != 0) {
    json[json.has("head_dim") ? "head_dim" : "hidden_size"].refuse(
        fmt::format("an even width of heads, for rotary positions, not {}", config.head_dim));
  }
}

}  // namespace

const char* to_string(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
      return "llama";
    case Architecture::kMistral:
      return "mistral";
    case Architecture::kQwen2:
      return "qwen2";
    case Architecture::kQwen3:
      return "qwen3";
  }
  return "";
}

int64_t ModelConfig::parameter_count(bool with_router) const {
  int64_t layer = 2 * hidden_size;               // two norms
  layer += hidden_size * qkv_size();             // q, k, v
  if (qkv_bias) layer += qkv_size();             //
  if (qk_norm) layer += 2 * head_dim;            //
  layer += heads * head_dim * hidden_size;       // o
  layer += 3 * hidden_size * intermediate_size;  // gate, up, down
  if (with_router) layer += hidden_size;         //
  const int64_t embedding = vocab_size * hidden_size;
  return layers * layer + embedding * (tied_embeddings ? 1 : 2) + hidden_size;
}

ModelConfig parse_model_config(const Json& source, const std::string& source_name) {
  const JsonCursor json(source, source_name, ExitCode::kCheckpoint);
  if (!json.is_object()) json.refuse("an object");
  ModelConfig config;
  config.architecture = parse_architecture(json);
  refuse_foreign_parts(json, config.architecture);
  config.vocab_size = json["vocab_size"].integer(1, kLargest);
  config.hidden_size = json["hidden_size"].integer(1, kLargest);
  config.intermediate_size = json["intermediate_size"].integer(1, kLargest);
  config.layers = json["num_hidden_layers"].integer(1, 100000);
  config.max_positions = json["max_position_embeddings"].integer(1, kLongestContext);
  parse_heads(json, config);
  refuse_own_windows(json, config);
  if (json.has("rms_norm_eps")) config.rms_norm_eps = json["rms_norm_eps"].number();
  if (config.rms_norm_eps < 0) json["rms_norm_eps"].refuse("a number from 0");
  parse_rope(json, config);
  config.tied_embeddings = boolean_or(json, "tie_word_embeddings", false);
  config.qkv_bias = config.architecture == Architecture::kQwen2;
  config.qk_norm = config.architecture == Architecture::kQwen3;
  if (json.has("initializer_range")) {
    config.initializer_range = json["initializer_range"].number();
    if (config.initializer_range < 0) json["initializer_range"].refuse("a number from 0");
  }
  config.eos_ids = parse_eos(json, config.architecture);
  if (json.has("bos_token_id")) config.bos_id = json["bos_token_id"].integer(-1, kLargest);
  config.dtype = parse_dtype(json);
  config.source = source;
  return config;
}

ModelConfig read_model_config(const std::string& path) {
  return parse_model_config(read_json_file(path, ExitCode::kCheckpoint), path);
}

void extend_context(ModelConfig& config, RopeScaling scaling) {
  SWIATTN_CHECK(scaling.factor > 0, "a rotary factor of {}", scaling.factor);
  if (scaling.original_length == 0) scaling.original_length = config.max_positions;
  const double positions = static_cast<double>(scaling.original_length) * scaling.factor;
  if (positions > static_cast<double>(kLongestContext)) {
    fail(ExitCode::kConfiguration,
         "The rotary factor {} makes {:.0f} tokens of a context of {}; at most {} are supported.",
         scaling.factor, positions, scaling.original_length, kLongestContext);
  }
  config.max_positions = std::llround(positions);
  config.rope_scaling = scaling;
}

}  // namespace swiattn
