#include "model/hybrid_attention.h"

#include <algorithm>
#include <array>

#include <fmt/ranges.h>

namespace swiattn {
namespace {

template <size_t N>
std::string one_of(const JsonCursor& json, const std::array<const char*, N>& names) {
  std::string name = json.string();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    json.refuse(fmt::format("one of {}", fmt::join(names, ", ")));
  }
  return name;
}

}  // namespace

std::optional<HybridAttention> read_hybrid_attention(const ModelConfig& config,
                                                     const std::string& source_name) {
  const JsonCursor json(config.source, source_name, ExitCode::kCheckpoint);
  if (!json.has("swiattn")) {
    if (json.has("model_type") && json["model_type"].string().starts_with("swiattn_")) {
      json["model_type"].refuse("a section 'swiattn' beside it, which says how a hybrid attends");
    }
    return std::nullopt;
  }
  const JsonCursor section = json["swiattn"];
  HybridAttention attention;
  attention.mode = one_of(section["mode"], std::array{"switch", "static", "window", "full"});
  attention.window = section["window"].integer(1, 1LL << 40);
  if (section.has("full_layers")) {
    const JsonCursor layers = section["full_layers"];
    for (size_t i = 0; i < layers.size(); ++i) {
      attention.full_layers.push_back(layers.at(i).integer(1, config.layers));
    }
  }
  if (section.has("gate")) {
    attention.gate = one_of(section["gate"], std::array{"learned", "random", "top_k"});
  }
  if (section.has("ratio")) attention.ratio = section["ratio"].number();
  if (attention.mode == "switch" && attention.gate != "learned" && !attention.ratio) {
    section["gate"].refuse("a ratio beside it, the share of full tokens that this gate chooses");
  }
  if (attention.mode == "static" && attention.full_layers.empty()) {
    section["mode"].refuse("full_layers beside it; without full layers the mode is window");
  }
  return attention;
}

Json hybrid_attention_json(const HybridAttention& attention) {
  Json json = {{"mode", attention.mode}, {"window", attention.window}, {"gate", attention.gate}};
  json["full_layers"] = attention.full_layers;
  json["ratio"] = attention.ratio ? Json(*attention.ratio) : Json(nullptr);
  return json;
}

}  // namespace swiattn
