#include "model/parameter_table.h"

#include <fmt/format.h>

namespace swiattn {
namespace {

ParameterGroup single(const std::string& group, const std::string& name, std::vector<int64_t> shape,
                      ParameterRole role) {
  return {group, {{name, std::move(shape), role}}};
}

ParameterUnit layer_unit(const ModelConfig& config, int64_t layer, bool with_router) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const int64_t d = config.hidden_size;
  const int64_t f = config.intermediate_size;
  const int64_t q = config.heads * config.head_dim;
  const int64_t kv = config.kv_heads * config.head_dim;
  constexpr auto kMatrix = ParameterRole::kMatrix;
  constexpr auto kNorm = ParameterRole::kNorm;
  constexpr auto kBias = ParameterRole::kBias;

  ParameterUnit unit{fmt::format("layer.{}", layer), {}};
  auto& groups = unit.groups;
  groups.push_back(single("input_norm", prefix + "input_layernorm.weight", {d}, kNorm));
  groups.push_back({"qkv",
                    {{attention + "q_proj.weight", {q, d}, kMatrix},
                     {attention + "k_proj.weight", {kv, d}, kMatrix},
                     {attention + "v_proj.weight", {kv, d}, kMatrix}}});
  if (config.qkv_bias) {
    groups.push_back({"qkv_bias",
                      {{attention + "q_proj.bias", {q}, kBias},
                       {attention + "k_proj.bias", {kv}, kBias},
                       {attention + "v_proj.bias", {kv}, kBias}}});
  }
  if (config.qk_norm) {
    groups.push_back(single("q_norm", attention + "q_norm.weight", {config.head_dim}, kNorm));
    groups.push_back(single("k_norm", attention + "k_norm.weight", {config.head_dim}, kNorm));
  }
  groups.push_back(single("o", attention + "o_proj.weight", {d, q}, kMatrix));
  groups.push_back(single("post_norm", prefix + "post_attention_layernorm.weight", {d}, kNorm));
  groups.push_back(
      {"gate_up",
       {{mlp + "gate_proj.weight", {f, d}, kMatrix}, {mlp + "up_proj.weight", {f, d}, kMatrix}}});
  groups.push_back(single("down", mlp + "down_proj.weight", {d, f}, kMatrix));
  if (with_router) {
    groups.push_back(single("router", router_name(layer), {1, d}, ParameterRole::kRouter));
  }
  return unit;
}

}  // namespace

std::string router_name(int64_t layer) {
  return fmt::format("model.layers.{}.self_attn.router.weight", layer);
}

std::vector<ParameterUnit> parameter_table(const ModelConfig& config, bool with_router) {
  const std::vector<int64_t> table_shape{config.vocab_size, config.hidden_size};
  std::vector<ParameterUnit> units;
  units.push_back(
      {"embedding",
       {single("embed", "model.embed_tokens.weight", table_shape, ParameterRole::kMatrix)}});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    units.push_back(layer_unit(config, layer, with_router));
  }
  ParameterUnit head{"head", {}};
  head.groups.push_back(
      single("norm", "model.norm.weight", {config.hidden_size}, ParameterRole::kNorm));
  if (!config.tied_embeddings) {
    head.groups.push_back(single("lm_head", "lm_head.weight", table_shape, ParameterRole::kMatrix));
  }
  units.push_back(std::move(head));
  return units;
}

}  // namespace swiattn
