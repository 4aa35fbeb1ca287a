#include "model/rope_config.h"

#include <optional>

namespace swiattn {
namespace {

std::optional<double> optional_number(const JsonCursor& json, const std::string& key) {
  if (!json.has(key)) return std::nullopt;
  return json[key].number();
}

double positive(const JsonCursor& json) {
  const double value = json.number();
  if (!(value > 0)) json.refuse("a number above 0");
  return value;
}

// transformers takes 0 and null for "use the default" here.
double number_or_default(const JsonCursor& json, const std::string& key, double fallback) {
  const double value = optional_number(json, key).value_or(0.0);
  return value == 0.0 ? fallback : value;
}

RopeScaling::Kind parse_kind(const JsonCursor& rope) {
  const char* key = rope.has("rope_type") ? "rope_type" : "type";
  if (!rope.has(key)) return RopeScaling::Kind::kNone;
  const std::string kind = rope[key].string();
  if (kind == "default") return RopeScaling::Kind::kNone;
  if (kind == "linear") return RopeScaling::Kind::kLinear;
  if (kind == "llama3") return RopeScaling::Kind::kLlama3;
  if (kind == "yarn") return RopeScaling::Kind::kYarn;
  rope[key].refuse("a rotary scaling that is implemented (default, linear, llama3 or yarn)");
}

// The length that the model was trained for before it was extended: a key beside the rotary ones
// wins over one inside them, and max_position_embeddings stands in for both.
int64_t original_length(const JsonCursor& json, const JsonCursor& rope, int64_t max_positions) {
  constexpr const char* kKey = "original_max_position_embeddings";
  if (json.has(kKey)) return json[kKey].integer(1, kLongestContext);
  if (rope.has(kKey)) return rope[kKey].integer(1, kLongestContext);
  return max_positions;
}

void parse_yarn(const JsonCursor& rope, int64_t max_positions, RopeScaling& scaling) {
  scaling.factor = rope.has("factor") ? positive(rope["factor"])
                                      : static_cast<double>(max_positions) /
                                            static_cast<double>(scaling.original_length);
  scaling.beta_fast = number_or_default(rope, "beta_fast", scaling.beta_fast);
  scaling.beta_slow = number_or_default(rope, "beta_slow", scaling.beta_slow);
  scaling.attention_factor = optional_number(rope, "attention_factor");
  scaling.mscale = optional_number(rope, "mscale");
  scaling.mscale_all_dim = optional_number(rope, "mscale_all_dim");
  if (rope.has("truncate")) scaling.truncate = rope["truncate"].boolean();
}

RopeScaling parse_scaling(const JsonCursor& json, const JsonCursor& rope, int64_t max_positions) {
  RopeScaling scaling;
  scaling.kind = parse_kind(rope);
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      break;
    case RopeScaling::Kind::kLinear:
      scaling.factor = positive(rope["factor"]);
      break;
    case RopeScaling::Kind::kLlama3:
      scaling.original_length = original_length(json, rope, max_positions);
      scaling.factor = positive(rope["factor"]);
      scaling.low_frequency_factor = positive(rope["low_freq_factor"]);
      scaling.high_frequency_factor = positive(rope["high_freq_factor"]);
      if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
        rope["high_freq_factor"].refuse("a number above low_freq_factor");
      }
      break;
    case RopeScaling::Kind::kYarn:
      scaling.original_length = original_length(json, rope, max_positions);
      parse_yarn(rope, max_positions, scaling);
      break;
  }
  if (scaling.factor > kLargestRopeFactor) {
    (rope.has("factor") ? rope["factor"] : rope)
        .refuse(fmt::format("a factor of at most {}", kLargestRopeFactor));
  }
  return scaling;
}

void refuse_partial_rotation(const JsonCursor& json) {
  if (json.has("partial_rotary_factor") && json["partial_rotary_factor"].number() != 1.0) {
    json["partial_rotary_factor"].refuse("1 (rotating a part of each head is not implemented)");
  }
}

Json scaling_json(const RopeScaling& scaling) {
  Json json = Json::object();
  const auto put = [&](const char* key, const std::optional<double>& value) {
    if (value) json[key] = *value;
  };
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      json["rope_type"] = "default";
      return json;
    case RopeScaling::Kind::kLinear:
      json["rope_type"] = "linear";
      break;
    case RopeScaling::Kind::kLlama3:
      json["rope_type"] = "llama3";
      json["low_freq_factor"] = scaling.low_frequency_factor;
      json["high_freq_factor"] = scaling.high_frequency_factor;
      break;
    case RopeScaling::Kind::kYarn:
      json["rope_type"] = "yarn";
      json["beta_fast"] = scaling.beta_fast;
      json["beta_slow"] = scaling.beta_slow;
      json["truncate"] = scaling.truncate;
      put("attention_factor", scaling.attention_factor);
      put("mscale", scaling.mscale);
      put("mscale_all_dim", scaling.mscale_all_dim);
      break;
  }
  json["factor"] = scaling.factor;
  if (scaling.original_length > 0) {
    json["original_max_position_embeddings"] = scaling.original_length;
  }
  return json;
}

}  // namespace

void parse_rope(const JsonCursor& json, ModelConfig& config) {
  refuse_partial_rotation(json);
  if (json.has("rope_theta")) config.rope_theta = positive(json["rope_theta"]);
  // An empty object counts as absent, in transformers as here.
  const char* key = json.has("rope_scaling") && !json["rope_scaling"].value().empty()
                        ? "rope_scaling"
                        : "rope_parameters";
  if (!json.has(key)) return;
  if (!json[key].is_object()) json[key].refuse("an object");
  if (json[key].value().empty()) return;
  const JsonCursor rope = json[key];
  for (const std::string& name : rope.keys()) {
    if (rope[name].is_object()) {
      rope[name].refuse("a number or a name (rotary parameters per layer are not implemented)");
    }
  }
  refuse_partial_rotation(rope);
  if (rope.has("rope_theta")) config.rope_theta = positive(rope["rope_theta"]);
  config.rope_scaling = parse_scaling(json, rope, config.max_positions);
}

void write_rope(const ModelConfig& config, Json& json) {
  const Json scaling = scaling_json(config.rope_scaling);
  // The length inside the rotary parameters says it all; beside them it would win over it.
  json.erase("original_max_position_embeddings");
  json["rope_theta"] = config.rope_theta;
  json["rope_scaling"] =
      config.rope_scaling.kind == RopeScaling::Kind::kNone ? Json(nullptr) : scaling;
  json["rope_parameters"] = scaling;
  json["rope_parameters"]["rope_theta"] = config.rope_theta;
}

}  // namespace swiattn
