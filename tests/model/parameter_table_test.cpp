#include "model/parameter_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace swiattn {
namespace {

using ::testing::ElementsAre;

ModelConfig small(Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = 11;
  config.hidden_size = 6;
  config.intermediate_size = 7;
  config.layers = 2;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 2;
  config.qkv_bias = architecture == Architecture::kQwen2;
  config.qk_norm = architecture == Architecture::kQwen3;
  return config;
}

std::vector<std::string> group_names(const ParameterUnit& unit) {
  std::vector<std::string> names;
  for (const ParameterGroup& group : unit.groups) names.push_back(group.name);
  return names;
}

int64_t count(const std::vector<ParameterUnit>& units) {
  int64_t total = 0;
  for (const ParameterUnit& unit : units) {
    for (const ParameterGroup& group : unit.groups) {
      for (const ParameterSpec& spec : group.members) total += spec.numel();
    }
  }
  return total;
}

TEST(ParameterTable, UnitsFollowTheForwardPass) {
  const auto units = parameter_table(small(Architecture::kLlama), false);
  std::vector<std::string> names;
  for (const ParameterUnit& unit : units) names.push_back(unit.name);
  EXPECT_THAT(names, ElementsAre("embedding", "layer.0", "layer.1", "head"));
  EXPECT_THAT(group_names(units[0]), ElementsAre("embed"));
  EXPECT_THAT(group_names(units[1]),
              ElementsAre("input_norm", "qkv", "o", "post_norm", "gate_up", "down"));
  EXPECT_THAT(group_names(units[3]), ElementsAre("norm", "lm_head"));
}

TEST(ParameterTable, ArchitecturesAddTheirBiasesAndNorms) {
  EXPECT_THAT(
      group_names(parameter_table(small(Architecture::kQwen2), true)[1]),
      ElementsAre("input_norm", "qkv", "qkv_bias", "o", "post_norm", "gate_up", "down", "router"));
  EXPECT_THAT(group_names(parameter_table(small(Architecture::kQwen3), true)[1]),
              ElementsAre("input_norm", "qkv", "q_norm", "k_norm", "o", "post_norm", "gate_up",
                          "down", "router"));
}

TEST(ParameterTable, ATiedHeadHasNoTensorOfItsOwn) {
  ModelConfig config = small(Architecture::kLlama);
  config.tied_embeddings = true;
  EXPECT_THAT(group_names(parameter_table(config, false).back()), ElementsAre("norm"));
}

TEST(ParameterTable, NamesAndShapesAreThoseOfHuggingFace) {
  const auto units = parameter_table(small(Architecture::kLlama), true);
  const ParameterGroup& qkv = units[2].groups[1];
  ASSERT_EQ(qkv.members.size(), 3U);
  EXPECT_EQ(qkv.members[0].name, "model.layers.1.self_attn.q_proj.weight");
  EXPECT_THAT(qkv.members[0].shape, ElementsAre(8, 6));
  EXPECT_THAT(qkv.members[2].shape, ElementsAre(4, 6));
  const ParameterSpec& router = units[2].groups.back().members[0];
  EXPECT_EQ(router.name, router_name(1));
  EXPECT_EQ(router.name, "model.layers.1.self_attn.router.weight");
  EXPECT_THAT(router.shape, ElementsAre(1, 6));
  EXPECT_EQ(router.role, ParameterRole::kRouter);
}

TEST(ParameterTable, AddsUpToTheParameterCount) {
  for (const Architecture architecture :
       {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2, Architecture::kQwen3}) {
    for (const bool tied : {false, true}) {
      for (const bool with_router : {false, true}) {
        ModelConfig config = small(architecture);
        config.tied_embeddings = tied;
        EXPECT_EQ(count(parameter_table(config, with_router)), config.parameter_count(with_router))
            << to_string(architecture) << tied << with_router;
      }
    }
  }
}

TEST(ParameterTable, NoNameStandsTwice) {
  std::set<std::string> names;
  for (const ParameterUnit& unit : parameter_table(small(Architecture::kQwen2), true)) {
    for (const ParameterGroup& group : unit.groups) {
      for (const ParameterSpec& spec : group.members) EXPECT_TRUE(names.insert(spec.name).second);
    }
  }
}

}  // namespace
}  // namespace swiattn
