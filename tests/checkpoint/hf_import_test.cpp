#include "checkpoint/hf_import.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstring>

#include "checkpoint/tensor_conversion.h"
#include "tests/base/expect_error.h"
#include "tests/checkpoint/model_fixture.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kNorm = "model.norm.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";

ImportReport import(const std::string& path, bool with_router = false) {
  const HfFolder folder(path);
  FlatParameters parameters = parameters_of(folder.config(), with_router);
  return load_weights(folder, parameters, {});
}

// The value that element `index` of a tensor of a folder stands for, converted the slow way.
float stored_value(const HfFolder& folder, const std::string& name, int64_t index) {
  const HfFolder::Tensor tensor = *folder.find(name);
  const std::byte* bytes = tensor.data().data();
  if (tensor.entry->type == TensorType::kF32) {
    float value = 0;
    std::memcpy(&value, bytes + 4 * index, 4);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, bytes + 2 * index, 2);
  if (tensor.entry->type == TensorType::kBF16) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value = 0;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                        : std::ldexp(1024.0F + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(LoadWeights, FillsEveryMasterExactly) {
  for (const char* name : {"llama-tied", "mistral-linear", "qwen2-sharded", "qwen3-yarn"}) {
    const HfFolder folder(model_fixture(name));
    FlatParameters parameters = parameters_of(folder.config(), false);
    const ImportReport report = load_weights(folder, parameters, {});
    EXPECT_EQ(report.tensors, static_cast<int64_t>(folder.tensors().size()));
    EXPECT_EQ(report.parameters, folder.config().parameter_count(false));
    EXPECT_TRUE(report.initialised.empty());
    for (const auto& [tensor, place] : folder.tensors()) {
      const at::Tensor values = weight(parameters, tensor).contiguous().view({-1});
      for (int64_t i = 0; i < values.numel(); ++i) {
        ASSERT_EQ(values.const_data_ptr<float>()[i], stored_value(folder, tensor, i))
            << tensor << " " << i;
      }
    }
  }
}

TEST(LoadWeights, FillsMastersOfAnotherTypeThroughABuffer) {
  const HfFolder folder(model_fixture("mistral-linear"));
  FlatParameters narrow = parameters_of(folder.config(), false);
  FlatParameters wide = parameters_of(folder.config(), false, at::kDouble);
  load_weights(folder, narrow, {});
  load_weights(folder, wide, {});
  for (const auto& [name, place] : folder.tensors()) {
    EXPECT_TRUE(at::equal(weight(wide, name), weight(narrow, name).to(at::kDouble))) << name;
  }
}

TEST(LoadWeights, TakesRoutersThatAreThereAndDrawsTheOthers) {
  const ImportReport whole = import(model_fixture("hybrid-llama"), true);
  EXPECT_TRUE(whole.initialised.empty());

  const TemporaryFolder folder;
  const std::string path = copy_of_model(folder, "hybrid-llama");
  change_tensors(path + "/model.safetensors",
                 [](EditableTensors& tensors) { tensors.erase(router_name(1)); });
  EXPECT_THAT(import(path, true).initialised, ElementsAre(router_name(1)));

  const ImportReport plain = import(model_fixture("llama-tied"), true);
  EXPECT_THAT(plain.initialised, ElementsAre(router_name(0), router_name(1), router_name(2)));
}

TEST(LoadWeights, AModelWithoutRoutersLoadsFromAHybrid) {
  EXPECT_EQ(import(model_fixture("hybrid-llama"), false).tensors, 2 + 3 * 9);
}

TEST(LoadWeights, DrawnRoutersDependOnSeedAndLayerOnly) {
  const auto draw = [](const std::string& name, uint64_t seed, bool everything) {
    const HfFolder folder(model_fixture(name));
    FlatParameters parameters = parameters_of(folder.config(), true);
    if (everything) {
      initialise_weights(parameters, folder.config(), {.seed = seed});
    } else {
      load_weights(folder, parameters, {.seed = seed});
    }
    return weight(parameters, router_name(1)).clone();
  };
  const at::Tensor router = draw("llama-tied", 1, false);
  EXPECT_TRUE(at::equal(router, draw("qwen2-sharded", 1, false)));
  EXPECT_TRUE(at::equal(router, draw("qwen3-yarn", 1, true)));
  EXPECT_FALSE(at::equal(router, draw("llama-tied", 2, false)));
}

class SpoiledFolder : public ::testing::Test {
 protected:
  std::string refusal(const std::function<void(EditableTensors&)>& change) {
    const TemporaryFolder folder;
    const std::string path = copy_of_model(folder, "llama-tied");
    change_tensors(path + "/model.safetensors", change);
    const std::string sentence = sentence_of(ExitCode::kCheckpoint, [&] { import(path); });
    EXPECT_EQ(sentence_of(ExitCode::kCheckpoint, [&] { verify_weights(HfFolder(path)); }), sentence)
        << "verifying finds what loading finds";
    return sentence;
  }
};

TEST_F(SpoiledFolder, RefusesAMissingTensor) {
  EXPECT_THAT(refusal([](auto& tensors) { tensors.erase(kNorm); }),
              HasSubstr("no tensor model.norm.weight"));
}

TEST_F(SpoiledFolder, RefusesUnknownTensors) {
  for (const std::string& name :
       {std::string("model.layers.0.self_attn.q_proj.bias"),
        std::string("model.layers.3.mlp.up_proj.weight"), router_name(3), std::string("x")}) {
    EXPECT_THAT(refusal([&](auto& tensors) { tensors[name] = tensors.at(kNorm); }),
                HasSubstr("the tensor " + name + " does not belong"));
  }
}

TEST_F(SpoiledFolder, RefusesAShapeThatTheConfigDoesNotGive) {
  EXPECT_THAT(refusal([](auto& tensors) {
                EditableTensor& q = tensors.at("model.layers.2.self_attn.k_proj.weight");
                q.shape = {48, 16};
              }),
              HasSubstr("k_proj.weight has the shape [48, 16], but config.json makes it [16, 48]"));
}

TEST_F(SpoiledFolder, RefusesWeightsThatAreNoFloats) {
  EXPECT_THAT(refusal([](auto& tensors) { tensors.at(kNorm).type = TensorType::kI16; }),
              HasSubstr("model.norm.weight has the type I16"));
}

TEST_F(SpoiledFolder, RefusesANonFiniteWeightByTensorAndIndex) {
  for (const uint16_t bits : {0x7f80, 0xff80, 0x7fc0, 0xffff}) {
    EXPECT_THAT(refusal([&](auto& tensors) {
                  std::memcpy(
                      tensors.at("model.layers.1.mlp.down_proj.weight").bytes.data() + 2 * 345,
                      &bits, 2);
                }),
                ::testing::AllOf(HasSubstr("model.layers.1.mlp.down_proj.weight"),
                                 HasSubstr("element 345")));
  }
}

TEST_F(SpoiledFolder, RefusesATiedHeadThatDiffers) {
  EXPECT_THAT(refusal([](auto& tensors) {
                tensors["lm_head.weight"] = tensors.at(kEmbedding);
                tensors["lm_head.weight"].bytes[7] ^= 1;
              }),
              HasSubstr("tie_word_embeddings"));
}

TEST(LoadWeights, IgnoresRotaryBuffersAndATiedHeadThatIsEqual) {
  const TemporaryFolder folder;
  const std::string path = copy_of_model(folder, "llama-tied");
  change_tensors(path + "/model.safetensors", [](EditableTensors& tensors) {
    tensors["lm_head.weight"] = tensors.at(kEmbedding);
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = tensors.at(kNorm);
  });
  EXPECT_EQ(import(path).tensors, 2 + 3 * 9);
}

TEST(LoadWeights, AnUntiedModelNeedsItsHead) {
  const TemporaryFolder folder;
  const std::string path = copy_of_model(folder, "llama-tied");
  change_json(path + "/config.json", [](Json& json) { json["tie_word_embeddings"] = false; });
  EXPECT_THAT(sentence_of(ExitCode::kCheckpoint, [&] { import(path); }),
              HasSubstr("no tensor lm_head.weight"));
}

TEST(VerifyWeights, AcceptsEveryFixtureAndCountsWhatItRead) {
  for (const char* name : {"llama-tied", "mistral-linear", "qwen2-sharded", "qwen3-yarn"}) {
    const HfFolder folder(model_fixture(name));
    EXPECT_EQ(verify_weights(folder).parameters, folder.config().parameter_count(false));
  }
  const HfFolder hybrid(model_fixture("hybrid-qwen3"));
  EXPECT_EQ(verify_weights(hybrid).parameters, hybrid.config().parameter_count(true));
}

TEST(VerifyWeights, RefusesAHybridThatLacksOneRouter) {
  const TemporaryFolder folder;
  const std::string path = copy_of_model(folder, "hybrid-llama");
  change_tensors(path + "/model.safetensors",
                 [](EditableTensors& tensors) { tensors.erase(router_name(1)); });
  EXPECT_THAT(sentence_of(ExitCode::kCheckpoint, [&] { verify_weights(HfFolder(path)); }),
              HasSubstr("has routers, but no tensor " + router_name(1)));
}

TEST(RequireRouters, RefusesAFolderThatShouldHaveOneAndDoesNot) {
  const TemporaryFolder folder;
  const std::string path = copy_of_model(folder, "hybrid-llama");
  const auto refusal = [&] {
    return sentence_of(ExitCode::kCheckpoint, [&] { require_routers(HfFolder(path)); });
  };
  EXPECT_NO_THROW(require_routers(HfFolder(path)));
  change_tensors(path + "/model.safetensors",
                 [](EditableTensors& tensors) { tensors.erase(router_name(1)); });
  EXPECT_THAT(refusal(), HasSubstr("has routers, but no tensor " + router_name(1)));
  change_tensors(path + "/model.safetensors", [](EditableTensors& tensors) {
    std::erase_if(tensors, [](const auto& entry) { return is_router_name(entry.first); });
  });
  EXPECT_THAT(refusal(), HasSubstr("calls for routers, but no tensor " + router_name(0)));
}

TEST(RequireRouters, AcceptsModelsThatHaveNone) {
  EXPECT_NO_THROW(require_routers(HfFolder(model_fixture("llama-tied"))));
}

TEST(InitialiseWeights, DrawsEachKindOfTensorAsItShould) {
  ModelConfig config = HfFolder(model_fixture("qwen2-sharded")).config();
  config.initializer_range = 0.05;
  FlatParameters parameters = parameters_of(config, true);
  initialise_weights(parameters, config, {.seed = 3, .router_std = 0.5});
  const at::Tensor matrix = weight(parameters, "model.layers.0.mlp.up_proj.weight");
  EXPECT_NEAR(matrix.mean().item<double>(), 0.0, 0.003);
  EXPECT_NEAR(matrix.std().item<double>(), 0.05, 0.003);
  EXPECT_NEAR(weight(parameters, router_name(0)).std().item<double>(), 0.5, 0.15);
  EXPECT_TRUE(at::equal(weight(parameters, kNorm), at::ones({48})));
  EXPECT_TRUE(weight(parameters, "model.layers.1.self_attn.q_proj.bias").eq(0).all().item<bool>());
  EXPECT_FALSE(at::equal(weight(parameters, "model.layers.1.mlp.up_proj.weight"), matrix));
}

TEST(InitialiseWeights, IsAPureFunctionOfTheSeed) {
  const ModelConfig config = HfFolder(model_fixture("llama-tied")).config();
  const auto hash = [&](uint64_t seed) {
    FlatParameters parameters = parameters_of(config, true);
    initialise_weights(parameters, config, {.seed = seed});
    return parameters.hash();
  };
  EXPECT_EQ(hash(5), hash(5));
  EXPECT_NE(hash(5), hash(6));
}

TEST(TensorConversion, EveryHalfSurvivesWideningAndNarrowing) {
  std::vector<uint16_t> patterns(1 << 16);
  for (size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<uint16_t>(i);
  for (const TensorType type : {TensorType::kBF16, TensorType::kF16}) {
    std::vector<float> wide(patterns.size());
    widen(type, reinterpret_cast<const std::byte*>(patterns.data()), wide);
    std::vector<uint16_t> back(patterns.size());
    narrow(type, wide, reinterpret_cast<std::byte*>(back.data()));
    for (size_t i = 0; i < patterns.size(); ++i) {
      if (std::isnan(wide[i])) continue;
      ASSERT_EQ(back[i], patterns[i]) << to_string(type);
    }
  }
}

TEST(TensorConversion, NarrowingRoundsToNearestEven) {
  const std::vector<float> values = {1.00390625F, 1.01171875F, -1.00390625F, 1.0039063692F};
  std::vector<uint16_t> out(values.size());
  narrow(TensorType::kBF16, values, reinterpret_cast<std::byte*>(out.data()));
  EXPECT_THAT(out, ElementsAre(0x3f80, 0x3f82, 0xbf80, 0x3f81));
}

TEST(TensorConversion, FindsTheFirstNonFiniteOfMany) {
  std::vector<float> values(3'000'000, 1.0F);
  EXPECT_EQ(first_nonfinite(values), std::nullopt);
  values[2'999'999] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(first_nonfinite(values), 2'999'999);
  values[1'234'567] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_nonfinite(values), 1'234'567);
  values[1'234'567] = std::numeric_limits<float>::max();
  values[2'999'999] = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(first_nonfinite(values), std::nullopt);
}

}  // namespace
}  // namespace swiattn
