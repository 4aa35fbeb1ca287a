#include "model/rope_frequencies.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/json.h"

namespace swiattn {
namespace {

// fixtures/models/rope_frequencies.json holds what transformers computes.
TEST(RotaryFrequencies, EqualTransformersForEveryKindOfScaling) {
  const std::string path = SWIATTN_TEST_FIXTURES "/models/rope_frequencies.json";
  const Json table = read_json_file(path, ExitCode::kCheckpoint);
  ASSERT_GE(table.size(), 16U);
  for (const Json& expected : table) {
    SCOPED_TRACE(expected["config"].dump());
    const RotaryFrequencies found =
        rotary_frequencies(parse_model_config(expected["config"], path));
    ASSERT_EQ(found.inverse.size(), expected["inverse"].size());
    for (size_t pair = 0; pair < found.inverse.size(); ++pair) {
      const double value = expected["inverse"][pair];
      // At most the last bit of a float32, which torch's vectorised pow may round otherwise.
      EXPECT_NEAR(found.inverse[pair], value, 1.3e-7 * value) << "pair " << pair;
    }
    EXPECT_NEAR(found.attention_factor, expected["attention_factor"].get<double>(), 1e-12);
  }
}

TEST(RotaryFrequencies, AnOverrideOfTheRunEqualsTheSameInTheConfig) {
  Json json = {{"model_type", "llama"},        {"vocab_size", 10},       {"hidden_size", 64},
               {"intermediate_size", 8},       {"num_hidden_layers", 1}, {"num_attention_heads", 2},
               {"max_position_embeddings", 64}};
  ModelConfig extended = parse_model_config(json, "config.json");
  extend_context(extended, {.kind = RopeScaling::Kind::kYarn, .factor = 8});
  json["max_position_embeddings"] = 512;
  json["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 8}, {"original_max_position_embeddings", 64}};
  const RotaryFrequencies expected = rotary_frequencies(parse_model_config(json, "config.json"));
  EXPECT_EQ(rotary_frequencies(extended).inverse, expected.inverse);
  EXPECT_EQ(rotary_frequencies(extended).attention_factor, 0.1 * std::log(8.0) + 1.0);
}

}  // namespace
}  // namespace swiattn
