#include "model/model_config.h"

#include <functional>

#include "model/hybrid_attention.h"
#include "model/rope_config.h"
#include "tests/base/expect_error.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json llama() {
  return {{"model_type", "llama"},    {"vocab_size", 100},
          {"hidden_size", 48},        {"intermediate_size", 64},
          {"num_hidden_layers", 2},   {"num_attention_heads", 6},
          {"num_key_value_heads", 2}, {"max_position_embeddings", 128}};
}

Json with(Json json, const std::string& key, const Json& value) {
  json[key] = value;
  return json;
}

Json of_type(const std::string& type) { return with(llama(), "model_type", type); }

ModelConfig parse(const Json& json) { return parse_model_config(json, "config.json"); }

std::string refusal(const Json& json) {
  return sentence_of(ExitCode::kCheckpoint, [&] { parse(json); });
}

TEST(ModelConfig, TakesTransformersDefaultsForWhatAConfigLeavesOut) {
  const ModelConfig config = parse(llama());
  EXPECT_EQ(config.architecture, Architecture::kLlama);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rope_scaling, RopeScaling{});
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_EQ(config.initializer_range, 0.02);
  EXPECT_THAT(config.eos_ids, ElementsAre(2));
  EXPECT_EQ(config.bos_id, std::nullopt);
  EXPECT_EQ(config.dtype, "float32");
  EXPECT_EQ(config.source, llama());
}

TEST(ModelConfig, ReadsEveryKey) {
  Json json = of_type("qwen3");
  json.update(Json{{"head_dim", 20},
                   {"num_key_value_heads", nullptr},
                   {"rms_norm_eps", 1e-5},
                   {"tie_word_embeddings", true},
                   {"initializer_range", 0.01},
                   {"eos_token_id", {7, 9}},
                   {"bos_token_id", 3},
                   {"hidden_act", "silu"},
                   {"torch_dtype", "torch.float16"}});
  const ModelConfig config = parse(json);
  EXPECT_EQ(config.head_dim, 20);
  EXPECT_EQ(config.kv_heads, 6);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_EQ(config.initializer_range, 0.01);
  EXPECT_THAT(config.eos_ids, ElementsAre(7, 9));
  EXPECT_EQ(config.bos_id, 3);
  EXPECT_EQ(config.dtype, "float16");
}

TEST(ModelConfig, TheArchitectureDecidesHowManyKvHeadsThereAreWithoutTheirKey) {
  const auto kv_heads = [](const char* type) {
    Json json = with(of_type(type), "num_attention_heads", 64);
    json.update(Json{{"hidden_size", 512}, {"head_dim", 8}});
    json.erase("num_key_value_heads");
    return parse(json).kv_heads;
  };
  EXPECT_EQ(kv_heads("llama"), 64);
  EXPECT_EQ(kv_heads("mistral"), 8);
  EXPECT_EQ(kv_heads("qwen2"), 32);
  EXPECT_EQ(kv_heads("qwen3"), 32);
}

TEST(ModelConfig, TheArchitectureDecidesOverBiasesAndNorms) {
  const ModelConfig qwen2 = parse(of_type("qwen2"));
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.qk_norm);
  const ModelConfig qwen3 = parse(of_type("qwen3"));
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_EQ(qwen3.head_dim, 128) << "Qwen3's width of heads when the key is missing";
  EXPECT_EQ(parse(with(of_type("qwen3"), "head_dim", nullptr)).head_dim, 8);
  EXPECT_EQ(parse(of_type("swiattn_qwen2")).architecture, Architecture::kQwen2);
  EXPECT_TRUE(parse(of_type("qwen2")).eos_ids.empty());
}

TEST(ModelConfig, TheNewKeyForTheTypeWinsOverTheOld) {
  EXPECT_EQ(parse(with(with(llama(), "torch_dtype", "float32"), "dtype", "bfloat16")).dtype,
            "bfloat16");
}

TEST(ModelConfig, RefusesByNameWhatItDoesNotImplement) {
  const std::vector<std::pair<std::string, Json>> cases = {
      {"model_type", of_type("mixtral")},
      {"attention_bias", with(llama(), "attention_bias", true)},
      {"mlp_bias", with(llama(), "mlp_bias", true)},
      {"hidden_act", with(llama(), "hidden_act", "gelu")},
      {"partial_rotary_factor", with(llama(), "partial_rotary_factor", 0.5)},
      {"quantization_config", with(llama(), "quantization_config", Json{{"bits", 4}})},
      {"num_experts", with(of_type("qwen3"), "num_experts", 8)},
      {"num_local_experts", with(of_type("mistral"), "num_local_experts", 8)},
      {"layer_types[1]",
       with(of_type("qwen3"), "layer_types", {"full_attention", "sliding_attention"})},
      {"sliding_window", with(of_type("mistral"), "sliding_window", 64)},
      {"rope_parameters.full_attention",
       with(llama(), "rope_parameters", Json{{"full_attention", {{"rope_type", "default"}}}})},
      {"rope_scaling.rope_type",
       with(llama(), "rope_scaling", Json{{"rope_type", "dynamic"}, {"factor", 2.0}})},
      {"rope_scaling.type",
       with(llama(), "rope_scaling", Json{{"type", "longrope"}, {"factor", 2.0}})},
      {"rope_parameters.partial_rotary_factor",
       with(llama(), "rope_parameters",
            Json{{"rope_type", "default"}, {"partial_rotary_factor", 0.25}})},
      {"dtype", with(llama(), "dtype", "float8_e4m3fn")},
  };
  for (const auto& [key, json] : cases) EXPECT_THAT(refusal(json), HasSubstr(key + ": expected"));
}

TEST(ModelConfig, RefusesMissingAndImpossibleValues) {
  for (const char* key : {"model_type", "vocab_size", "hidden_size", "intermediate_size",
                          "num_hidden_layers", "num_attention_heads", "max_position_embeddings"}) {
    Json json = llama();
    json.erase(key);
    EXPECT_THAT(refusal(json), HasSubstr(key));
    if (std::string(key) == "model_type") continue;
    for (const Json& value :
         {Json(0), Json(-1), Json(1.5), Json("8"), Json(1e300), Json(nullptr)}) {
      EXPECT_THAT(refusal(with(llama(), key, value)), HasSubstr(key)) << value;
    }
  }
  EXPECT_THAT(refusal(with(llama(), "num_key_value_heads", 4)), HasSubstr("a divisor"));
  EXPECT_THAT(refusal(with(llama(), "head_dim", 7)), HasSubstr("an even width"));
  EXPECT_THAT(refusal(with(llama(), "hidden_size", 50)), HasSubstr("a multiple of"));
  EXPECT_THAT(refusal(with(llama(), "rms_norm_eps", -1)), HasSubstr("rms_norm_eps"));
  EXPECT_THAT(refusal(with(llama(), "rope_theta", 0)), HasSubstr("rope_theta"));
  EXPECT_THAT(refusal(with(llama(), "tie_word_embeddings", 1)), HasSubstr("tie_word_embeddings"));
  EXPECT_THAT(refusal(with(llama(), "eos_token_id", {1, "x"})), HasSubstr("eos_token_id[1]"));
  EXPECT_THAT(refusal(Json::array()), HasSubstr("an object"));
}

TEST(ModelConfig, AnOwnWindowThatNoContextOutgrowsIsAccepted) {
  EXPECT_NO_THROW(parse(with(of_type("mistral"), "sliding_window", 128)));
  EXPECT_NO_THROW(parse(with(of_type("mistral"), "sliding_window", nullptr)));
  EXPECT_NO_THROW(parse(of_type("mistral"))) << "the default of 4096 is wider than the context";
  const Json longer = with(of_type("mistral"), "max_position_embeddings", 8192);
  EXPECT_THAT(refusal(longer), HasSubstr("set sliding_window to null"));
}

TEST(ModelConfig, QwenWindowsCountOnlyWhereTheyAreSwitchedOn) {
  Json json = with(of_type("qwen2"), "sliding_window", 64);
  EXPECT_NO_THROW(parse(json)) << "use_sliding_window is false";
  json["use_sliding_window"] = true;
  EXPECT_NO_THROW(parse(json)) << "the first layer with a window would be number 28";
  json["max_window_layers"] = 1;
  EXPECT_THAT(refusal(json), HasSubstr("use_sliding_window"));
  EXPECT_NO_THROW(parse(with(json, "sliding_window", nullptr)));
  EXPECT_NO_THROW(parse(with(json, "sliding_window", 128)));
}

TEST(RopeConfig, BothSpellingsReadAlike) {
  const Json yarn = {{"factor", 4.0},           {"original_max_position_embeddings", 32},
                     {"beta_fast", 16},         {"beta_slow", 2},
                     {"attention_factor", 1.1}, {"mscale", 0.5},
                     {"mscale_all_dim", 0.25},  {"truncate", false}};
  Json old = with(llama(), "rope_theta", 5e5);
  old["rope_scaling"] = with(yarn, "type", "yarn");
  Json parameters = with(yarn, "rope_type", "yarn");
  parameters["rope_theta"] = 5e5;
  const ModelConfig from_old = parse(old);
  const ModelConfig from_new = parse(with(llama(), "rope_parameters", parameters));
  EXPECT_EQ(from_old.rope_theta, 5e5);
  EXPECT_EQ(from_new.rope_theta, 5e5);
  EXPECT_EQ(from_old.rope_scaling, from_new.rope_scaling);
  const RopeScaling& scaling = from_old.rope_scaling;
  EXPECT_EQ(scaling.kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(scaling.factor, 4.0);
  EXPECT_EQ(scaling.original_length, 32);
  EXPECT_EQ(scaling.beta_fast, 16);
  EXPECT_EQ(scaling.beta_slow, 2);
  EXPECT_EQ(scaling.attention_factor, 1.1);
  EXPECT_EQ(scaling.mscale, 0.5);
  EXPECT_EQ(scaling.mscale_all_dim, 0.25);
  EXPECT_FALSE(scaling.truncate);
}

TEST(RopeConfig, WithBothSpellingsTheOldOneWins) {
  Json json = with(llama(), "rope_scaling", Json{{"rope_type", "linear"}, {"factor", 2.0}});
  json["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 3.0}, {"rope_theta", 7.0}};
  EXPECT_EQ(parse(json).rope_scaling.factor, 2.0);
  json["rope_scaling"] = nullptr;
  EXPECT_EQ(parse(json).rope_scaling.factor, 3.0);
  EXPECT_EQ(parse(json).rope_theta, 7.0);
}

TEST(RopeConfig, TheOriginalLengthIsFoundWhereTransformersLooksForIt) {
  const Json yarn = {{"rope_type", "yarn"}, {"factor", 2.0}};
  Json json = with(llama(), "rope_scaling", yarn);
  EXPECT_EQ(parse(json).rope_scaling.original_length, 128) << "max_position_embeddings";
  json["rope_scaling"]["original_max_position_embeddings"] = 64;
  EXPECT_EQ(parse(json).rope_scaling.original_length, 64);
  json["original_max_position_embeddings"] = 32;
  EXPECT_EQ(parse(json).rope_scaling.original_length, 32) << "beside wins over inside";
}

TEST(RopeConfig, RefusesParametersThatAreMissingOrImpossible) {
  const auto scaled = [](const Json& rope) { return with(llama(), "rope_scaling", rope); };
  EXPECT_THAT(refusal(scaled({{"type", "linear"}})), HasSubstr("rope_scaling.factor"));
  EXPECT_THAT(refusal(scaled({{"type", "linear"}, {"factor", -1.0}})),
              HasSubstr("rope_scaling.factor"));
  Json llama3 = {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}};
  EXPECT_THAT(refusal(scaled(llama3)), HasSubstr("high_freq_factor"));
  llama3["high_freq_factor"] = 1.0;
  EXPECT_THAT(refusal(scaled(llama3)), HasSubstr("above low_freq_factor"));
  EXPECT_THAT(refusal(scaled("yarn")), HasSubstr("rope_scaling"));
  EXPECT_THAT(refusal(scaled({{"type", "linear"}, {"factor", 1e7}})),
              HasSubstr("rope_scaling.factor: expected a factor of at most 1000000"));
}

TEST(RopeConfig, WhatIsWrittenReadsBackInEitherSpelling) {
  std::vector<RopeScaling> scalings(4);
  scalings[1] = {.kind = RopeScaling::Kind::kLinear, .factor = 2.5};
  scalings[2] = {.kind = RopeScaling::Kind::kLlama3,
                 .factor = 8,
                 .original_length = 64,
                 .low_frequency_factor = 1.5,
                 .high_frequency_factor = 3};
  scalings[3] = {.kind = RopeScaling::Kind::kYarn,
                 .factor = 4,
                 .original_length = 32,
                 .beta_fast = 24,
                 .beta_slow = 2,
                 .attention_factor = 1.3,
                 .mscale = 0.7,
                 .mscale_all_dim = 0.9,
                 .truncate = false};
  for (const RopeScaling& scaling : scalings) {
    ModelConfig config = parse(llama());
    config.rope_scaling = scaling;
    config.rope_theta = 123.5;
    Json written = with(llama(), "original_max_position_embeddings", 7);
    write_rope(config, written);
    for (const char* other : {"rope_parameters", "rope_scaling"}) {
      Json one = written;
      one.erase(other);
      EXPECT_EQ(parse(one).rope_scaling, scaling) << "without " << other;
      EXPECT_EQ(parse(one).rope_theta, 123.5);
    }
  }
}

TEST(ModelConfig, ExtendingTheContextMultipliesTheOriginalLength) {
  ModelConfig config = parse(llama());
  extend_context(config, {.kind = RopeScaling::Kind::kYarn, .factor = 8});
  EXPECT_EQ(config.max_positions, 1024);
  EXPECT_EQ(config.rope_scaling.original_length, 128);
  extend_context(config, {.kind = RopeScaling::Kind::kYarn, .factor = 2, .original_length = 64});
  EXPECT_EQ(config.max_positions, 128);
}

TEST(ModelConfig, RefusesToExtendTheContextBeyondWhatAConfigMaySay) {
  ModelConfig config = parse(with(llama(), "max_position_embeddings", 1LL << 40));
  EXPECT_THAT(
      sentence_of(
          ExitCode::kConfiguration,
          [&] { extend_context(config, {.kind = RopeScaling::Kind::kLinear, .factor = 1e6}); }),
      HasSubstr("at most 1099511627776 are supported"));
}

TEST(HybridAttention, ReadsBackWhatItWrites) {
  HybridAttention attention;
  attention.mode = "static";
  attention.window = 77;
  attention.full_layers = {1, 2};
  attention.ratio = 0.25;
  ModelConfig config = parse(with(llama(), "swiattn", hybrid_attention_json(attention)));
  EXPECT_EQ(read_hybrid_attention(config, "config.json"), attention);
  EXPECT_EQ(read_hybrid_attention(parse(llama()), "config.json"), std::nullopt);
  config.source["swiattn"]["mode"] = "sometimes";
  EXPECT_THAT(
      sentence_of(ExitCode::kCheckpoint, [&] { read_hybrid_attention(config, "config.json"); }),
      HasSubstr("swiattn.mode: expected one of switch, static, window, full"));
  config.source["swiattn"] = {{"mode", "static"}, {"window", 4}, {"full_layers", {3}}};
  EXPECT_THAT(
      sentence_of(ExitCode::kCheckpoint, [&] { read_hybrid_attention(config, "config.json"); }),
      HasSubstr("swiattn.full_layers[0]"));
}

TEST(HybridAttention, RefusesASectionThatDoesNotSayHowTheLayersAttend) {
  const auto refusal_of = [](const Json& section, const std::string& type = "swiattn_llama") {
    const ModelConfig config = parse(with(of_type(type), "swiattn", section));
    return sentence_of(ExitCode::kCheckpoint,
                       [&] { read_hybrid_attention(config, "config.json"); });
  };
  EXPECT_THAT(refusal_of(nullptr), HasSubstr("model_type: expected a section 'swiattn' beside it"));
  for (const char* gate : {"random", "top_k"}) {
    EXPECT_THAT(refusal_of({{"mode", "switch"}, {"window", 4}, {"gate", gate}, {"ratio", nullptr}}),
                HasSubstr("swiattn.gate: expected a ratio beside it"));
  }
  EXPECT_THAT(
      refusal_of({{"mode", "static"}, {"window", 4}, {"full_layers", Json::array()}}, "llama"),
      HasSubstr("swiattn.mode: expected full_layers beside it"));
}

TEST(ModelConfig, RefusesRotaryParametersThatAreNoObject) {
  EXPECT_THAT(refusal(with(llama(), "rope_parameters", Json::array())),
              HasSubstr("rope_parameters: expected an object"));
}

}  // namespace
}  // namespace swiattn
