#include "checkpoint/hf_export.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "checkpoint/embedded_python.h"
#include "checkpoint/export_config.h"
#include "checkpoint/hf_import.h"
#include "tests/base/expect_error.h"
#include "tests/base/fault_file_system.h"
#include "tests/checkpoint/model_fixture.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

FileSystem& posix() { return FileSystem::posix(); }

// A model loaded from a folder.
struct Loaded {
  explicit Loaded(const std::string& path, bool with_router = false)
      : folder(path), parameters(parameters_of(folder.config(), with_router)) {
    load_weights(folder, parameters, {});
    options.dtype = folder.dtype();
    options.companions_from = path;
    options.attention.window = 7;
  }
  HfFolder folder;
  FlatParameters parameters;
  ExportOptions options;
};

Json config_of(const std::string& folder) {
  return read_json_file(folder + "/config.json", ExitCode::kCheckpoint);
}

std::string text_of(const std::string& path) { return read_file(path, ExitCode::kCheckpoint); }

void expect_equal_tensors(const HfFolder& a, const HfFolder& b) {
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const auto& [name, tensor] : a.tensors()) {
    const HfFolder::Tensor* other = b.find(name);
    ASSERT_NE(other, nullptr) << name;
    EXPECT_EQ(tensor.entry->type, other->entry->type) << name;
    EXPECT_EQ(tensor.entry->shape, other->entry->shape) << name;
    EXPECT_TRUE(std::equal(tensor.data().begin(), tensor.data().end(), other->data().begin(),
                           other->data().end()))
        << name;
  }
}

class Export : public ::testing::Test {
 protected:
  TemporaryFolder folder_;
  std::string out_ = folder_.file("export");
};

TEST_F(Export, ImportAndBaseExportGiveEveryBitBack) {
  for (const std::string name : {"llama-tied", "mistral-linear", "qwen2-sharded", "qwen3-yarn"}) {
    const Loaded model(model_fixture(name), true);
    const std::string out = folder_.file("back-" + name);
    export_base(posix(), model.parameters, model.folder.config(), model.options, out);
    expect_equal_tensors(model.folder, HfFolder(out));
    EXPECT_EQ(config_of(out), config_of(model_fixture(name))) << "nothing changed, nothing differs";
    EXPECT_FALSE(file_exists(out + "/modeling_swiattn.py"));
  }
}

TEST_F(Export, AHybridGivesItsRoutersBackInFloat32) {
  const Loaded model(model_fixture("hybrid-llama"), true);
  export_hybrid(posix(), model.parameters, model.folder.config(), model.options, out_);
  const HfFolder exported(out_);
  expect_equal_tensors(model.folder, exported);
  EXPECT_EQ(exported.find(router_name(0))->entry->type, TensorType::kF32);
  const SafetensorsFile file(out_ + "/model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST_F(Export, AHybridCarriesItsCodeAndSaysHowToAttend) {
  Loaded model(model_fixture("qwen3-yarn"), true);
  model.options.card = {{"Tokens with full attention", "13.2 %"}};
  export_hybrid(posix(), model.parameters, model.folder.config(), model.options, out_);
  const Json config = config_of(out_);
  EXPECT_EQ(config["model_type"], "swiattn_qwen3");
  EXPECT_EQ(config["architectures"], Json({"SwiattnQwen3ForCausalLM"}));
  EXPECT_EQ(config["auto_map"]["AutoModelForCausalLM"], "modeling_swiattn.SwiattnQwen3ForCausalLM");
  EXPECT_EQ(config["swiattn"]["mode"], "switch");
  EXPECT_EQ(config["swiattn"]["window"], 7);
  EXPECT_EQ(config["dtype"], "float32");
  EXPECT_EQ(config["torch_dtype"], "float32");
  EXPECT_EQ(config["rope_scaling"]["rope_type"], "yarn");
  EXPECT_EQ(config["rope_parameters"]["factor"], 4.0);
  EXPECT_EQ(text_of(out_ + "/modeling_swiattn.py"), kModelingPython);
  EXPECT_EQ(text_of(out_ + "/configuration_swiattn.py"), kConfigurationPython);
  EXPECT_THAT(std::string(kModelingPython), HasSubstr("class SwiattnQwen3ForCausalLM"));
  EXPECT_THAT(text_of(out_ + "/README.md"), HasSubstr("| Tokens with full attention | 13.2 % |"));
  const ModelConfig read = HfFolder(out_).config();
  EXPECT_EQ(read.rope_scaling, model.folder.config().rope_scaling);
  EXPECT_EQ(read_hybrid_attention(read, "")->window, 7);
}

TEST_F(Export, AFixedPatternKeepsThePlainLayoutAndNamesItsMode) {
  Loaded model(model_fixture("mistral-linear"));
  model.options.attention.mode = "static";
  model.options.attention.full_layers = {2};
  export_hybrid(posix(), model.parameters, model.folder.config(), model.options, out_);
  const Json config = config_of(out_);
  EXPECT_EQ(config["model_type"], "mistral");
  EXPECT_EQ(config["architectures"], Json({"MistralForCausalLM"}));
  EXPECT_EQ(config["swiattn"]["mode"], "static");
  EXPECT_EQ(config["swiattn"]["full_layers"], Json({2}));
  EXPECT_TRUE(config.contains("auto_map"));
  EXPECT_TRUE(file_exists(out_ + "/modeling_swiattn.py"));
  expect_equal_tensors(model.folder, HfFolder(out_));
}

TEST_F(Export, FullModeAndBaseExportsOfAHybridArePlain) {
  Loaded model(model_fixture("hybrid-llama"), true);
  model.options.attention.mode = "full";
  export_hybrid(posix(), model.parameters, model.folder.config(), model.options, out_);
  const Json config = config_of(out_);
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_FALSE(config.contains("swiattn"));
  EXPECT_FALSE(config.contains("auto_map"));
  EXPECT_EQ(HfFolder(out_).find(router_name(0)), nullptr);
  EXPECT_EQ(config, config_of(model_fixture("llama-tied")))
      << "the hybrid was made from this model, and its base is that again";
}

TEST_F(Export, AChangedContextIsWrittenInBothSpellings) {
  Loaded model(model_fixture("llama-tied"));
  ModelConfig config = model.folder.config();
  extend_context(config, {.kind = RopeScaling::Kind::kYarn, .factor = 4});
  export_base(posix(), model.parameters, config, model.options, out_);
  const Json json = config_of(out_);
  EXPECT_EQ(json["max_position_embeddings"], 384);
  EXPECT_EQ(json["rope_parameters"]["rope_type"], "yarn");
  EXPECT_EQ(json["rope_scaling"]["original_max_position_embeddings"], 96);
  EXPECT_EQ(HfFolder(out_).config().rope_scaling, config.rope_scaling);
}

TEST_F(Export, AnotherTypeIsWrittenIntoTheConfig) {
  Loaded model(model_fixture("llama-tied"));
  model.options.dtype = "float32";
  export_base(posix(), model.parameters, model.folder.config(), model.options, out_);
  EXPECT_EQ(config_of(out_)["dtype"], "float32");
  EXPECT_EQ(HfFolder(out_).dtype(), "float32");
  model.options.dtype = "int8";
  EXPECT_THAT(sentence_of(ExitCode::kCheckpoint,
                          [&] {
                            export_base(posix(), model.parameters, model.folder.config(),
                                        model.options, folder_.file("other"));
                          }),
              HasSubstr("'int8'"));
}

TEST_F(Export, LargeModelsAreSplitIntoShardsThatReadBack) {
  Loaded model(model_fixture("qwen2-sharded"));
  for (const uint64_t limit : {uint64_t{1}, uint64_t{20'000}, uint64_t{70'000}}) {
    model.options.shard_bytes = limit;
    const std::string out = folder_.file("shards-" + std::to_string(limit));
    export_base(posix(), model.parameters, model.folder.config(), model.options, out);
    EXPECT_FALSE(file_exists(out + "/model.safetensors"));
    expect_equal_tensors(model.folder, HfFolder(out));
    const Json index = read_json_file(out + "/model.safetensors.index.json", ExitCode::kCheckpoint);
    EXPECT_EQ(index["metadata"]["total_size"], 2 * model.folder.config().parameter_count(false));
    for (const auto& [tensor, name] : index["weight_map"].items()) {
      const SafetensorsFile shard(out + "/" + name.get<std::string>());
      uint64_t bytes = 0;
      for (const auto& [member, entry] : shard.tensors()) bytes += entry.bytes;
      EXPECT_TRUE(bytes <= limit || shard.tensors().size() == 1) << name;
    }
  }
}

TEST_F(Export, TokenizerFilesAreCopiedVerbatim) {
  const std::string source = copy_of_model(folder_, "llama-tied");
  const std::string odd("{\"a\": \xff\0 1}\r\n", 13);
  write_file(source + "/tokenizer.json", odd);
  write_file(source + "/generation_config.json", "");
  const Loaded model(source);
  export_base(posix(), model.parameters, model.folder.config(), model.options, out_);
  EXPECT_EQ(text_of(out_ + "/tokenizer.json"), odd);
  EXPECT_EQ(text_of(out_ + "/generation_config.json"), "");
}

TEST_F(Export, RefusesToOverwrite) {
  const Loaded model(model_fixture("llama-tied"));
  posix().make_folders(out_);
  EXPECT_THAT(sentence_of(ExitCode::kCheckpoint,
                          [&] {
                            export_base(posix(), model.parameters, model.folder.config(),
                                        model.options, out_ + "/");
                          }),
              HasSubstr("exists already"));
}

TEST_F(Export, RefusesWeightsThatAreNotFiniteInTheTypeOfTheExport) {
  Loaded model(model_fixture("llama-tied"));
  const auto refusal = [&](float value, const std::string& dtype) {
    weight(model.parameters, "model.norm.weight")[5] = value;
    model.options.dtype = dtype;
    return sentence_of(ExitCode::kCheckpoint, [&] {
      export_base(posix(), model.parameters, model.folder.config(), model.options, out_);
    });
  };
  EXPECT_THAT(refusal(std::nanf(""), "float32"),
              HasSubstr("model.norm.weight holds nan at its element 5"));
  EXPECT_THAT(refusal(std::numeric_limits<float>::max(), "bfloat16"), HasSubstr("bfloat16"));
  EXPECT_THAT(refusal(70000.0F, "float16"), HasSubstr("export in bfloat16 or float32"));
  EXPECT_FALSE(folder_exists(out_));
  weight(model.parameters, "model.norm.weight")[5] = 1.0F;
  export_base(posix(), model.parameters, model.folder.config(), model.options, out_);
  EXPECT_FALSE(folder_exists(out_ + ".tmp")) << "what the failed exports left is gone";
}

TEST_F(Export, AFailureAnywhereLeavesNoFolderAndCanBeRepeated) {
  const Loaded model(model_fixture("llama-tied"), true);
  FaultFileSystem counting;
  export_hybrid(counting, model.parameters, model.folder.config(), model.options, out_);
  const int calls = counting.calls();
  posix().remove_folder_tree(out_);
  ASSERT_GT(calls, 20);
  for (int call = 1; call <= calls; ++call) {
    FaultFileSystem files;
    files.inject(call, FaultFileSystem::Fault::kPowerCut);
    EXPECT_THROW(export_hybrid(files, model.parameters, model.folder.config(), model.options, out_),
                 FileError);
    files.lose_unsynced(FaultFileSystem::Names::kKept);
    if (folder_exists(out_)) {  // the cut came after the rename
      expect_equal_tensors(model.folder, HfFolder(out_));
      posix().remove_folder_tree(out_);
    }
  }
  export_hybrid(posix(), model.parameters, model.folder.config(), model.options, out_);
  EXPECT_NO_THROW(HfFolder{out_});
}

TEST(ExportConfig, AModelsOwnWindowThatMeantNothingDoesNotComeToLife) {
  Json json = config_of(model_fixture("mistral-linear"));
  json["sliding_window"] = 64;
  ModelConfig config = parse_model_config(json, "config.json");
  extend_context(config, {.kind = RopeScaling::Kind::kYarn, .factor = 4});
  for (const ExportLayout layout : {ExportLayout::kBase, ExportLayout::kHybrid}) {
    const Json exported = export_config(config, layout, "float16", {});
    EXPECT_TRUE(exported["sliding_window"].is_null());
    EXPECT_NO_THROW(parse_model_config(exported, "export"));
  }
}

}  // namespace
}  // namespace swiattn
