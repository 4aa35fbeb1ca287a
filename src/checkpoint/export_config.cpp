#include "checkpoint/export_config.h"

#include "model/rope_config.h"

namespace swiattn {
namespace {

// "Qwen3", as the classes of transformers are called.
std::string class_prefix(Architecture architecture) {
  std::string name = to_string(architecture);
  name[0] = static_cast<char>(name[0] - 'a' + 'A');
  return name;
}

void set_dtype(Json& json, const std::string& dtype, bool both) {
  const bool has_new = json.contains("dtype");
  const bool has_old = json.contains("torch_dtype");
  if (has_new || both) json["dtype"] = dtype;
  if (has_old || both || !has_new) json["torch_dtype"] = dtype;
}

// Points transformers to the two Python files of the folder.
void set_auto_map(Json& json, Architecture architecture) {
  const std::string prefix = "Swiattn" + class_prefix(architecture);
  json["auto_map"] = {{"AutoConfig", "configuration_swiattn." + prefix + "Config"},
                      {"AutoModel", "modeling_swiattn." + prefix + "Model"},
                      {"AutoModelForCausalLM", "modeling_swiattn." + prefix + "ForCausalLM"}};
}

// An own window that no context could outgrow was accepted on import; a longer context might
// outgrow it, and the masks of a hybrid are its router's alone.
void switch_off_own_windows(Json& json, Architecture architecture) {
  if (architecture == Architecture::kMistral) json["sliding_window"] = nullptr;
  if (json.contains("use_sliding_window")) json["use_sliding_window"] = false;
}

bool rope_changed(const ModelConfig& config) {
  const ModelConfig before = parse_model_config(config.source, "the imported config.json");
  return before.rope_scaling != config.rope_scaling || before.rope_theta != config.rope_theta ||
         before.max_positions != config.max_positions;
}

}  // namespace

Json export_config(const ModelConfig& config, ExportLayout layout, const std::string& dtype,
                   const HybridAttention& attention) {
  const std::string base = to_string(config.architecture);
  const std::string causal_lm = class_prefix(config.architecture) + "ForCausalLM";
  const bool hybrid = layout == ExportLayout::kHybrid;
  Json json = config.source;
  json.erase("auto_map");
  json.erase("swiattn");
  json["model_type"] = hybrid ? "swiattn_" + base : base;
  json["architectures"] = {hybrid ? "Swiattn" + causal_lm : causal_lm};
  set_dtype(json, dtype, hybrid);
  const bool changed = rope_changed(config);
  if (changed) json["max_position_embeddings"] = config.max_positions;
  if (changed || hybrid) {
    write_rope(config, json);
    switch_off_own_windows(json, config.architecture);
  }
  if (layout != ExportLayout::kBase) {
    set_auto_map(json, config.architecture);
    json["swiattn"] = hybrid_attention_json(attention);
  }
  return json;
}

}  // namespace swiattn
