#include "checkpoint/hf_folder.h"

#include <filesystem>

#include "tests/base/expect_error.h"
#include "tests/checkpoint/model_fixture.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kIndex = "/model.safetensors.index.json";
constexpr const char* kSecond = "model-00002-of-00003.safetensors";

std::string refusal(const std::string& path) {
  return sentence_of(ExitCode::kCheckpoint, [&] { HfFolder folder(path); });
}

class ShardedFolder : public ::testing::Test {
 protected:
  // The refusal after a change of the index.
  std::string with_index(const std::function<void(Json&)>& change) {
    change_json(path_ + kIndex, change);
    return refusal(path_);
  }

  TemporaryFolder folder_;
  std::string path_ = copy_of_model(folder_, "qwen2-sharded");
};

TEST(HfFolder, ReadsASingleFile) {
  const HfFolder folder(model_fixture("llama-tied"));
  EXPECT_EQ(folder.config().architecture, Architecture::kLlama);
  EXPECT_EQ(folder.tensors().size(), 2U + 3 * 9);
  ASSERT_NE(folder.find("model.norm.weight"), nullptr);
  EXPECT_EQ(folder.find("lm_head.weight"), nullptr);
}

TEST(HfFolder, KnowsTheTypeOfItsWeights) {
  EXPECT_EQ(HfFolder(model_fixture("llama-tied")).dtype(), "bfloat16");
  EXPECT_EQ(HfFolder(model_fixture("mistral-linear")).dtype(), "float16");
  EXPECT_EQ(HfFolder(model_fixture("qwen3-yarn")).dtype(), "float32");
  EXPECT_EQ(HfFolder(model_fixture("hybrid-llama")).dtype(), "bfloat16")
      << "the routers, always float32, do not count";
}

TEST(HfFolder, MixedTypesAreOnlyKeptByFloat32) {
  const TemporaryFolder folder;
  const std::string path = copy_of_model(folder, "llama-tied");
  change_tensors(path + "/model.safetensors", [](EditableTensors& tensors) {
    EditableTensor& norm = tensors.at("model.norm.weight");
    norm = {TensorType::kF32, norm.shape, std::string(norm.bytes.size() * 2, '\0')};
  });
  EXPECT_EQ(HfFolder(path).dtype(), "float32");
}

TEST(HfFolder, SaysWhatTheFolderOfARunHasInstead) {
  const TemporaryFolder folder;
  EXPECT_THAT(refusal(folder.file("none")), HasSubstr("Names on a hub are not fetched"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("has no config.json. A model folder"));
  std::filesystem::create_directories(folder.file("checkpoints"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("'" + folder.path() + "/hybrid'"));
}

TEST_F(ShardedFolder, FindsEveryTensorInItsShard) {
  const HfFolder folder(path_);
  EXPECT_EQ(folder.tensors().size(), 3U + 3 * 12);
  EXPECT_THAT(folder.find("model.norm.weight")->file->path(), HasSubstr("model-0000"));
}

TEST_F(ShardedFolder, RefusesFilesOutsideTheFolder) {
  for (const char* name : {"../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "",
                           ".hidden.safetensors", "model.bin", "a\\b.safetensors"}) {
    EXPECT_THAT(with_index([&](Json& json) { json["weight_map"]["model.norm.weight"] = name; }),
                HasSubstr("weight_map.model.norm.weight: expected the base name"))
        << name;
  }
}

TEST_F(ShardedFolder, RefusesAMissingShard) {
  std::filesystem::remove(path_ + "/" + kSecond);
  EXPECT_THAT(refusal(path_), HasSubstr(std::string("names the file ") + kSecond));
}

TEST_F(ShardedFolder, RefusesATensorThatTheNamedFileDoesNotHave) {
  EXPECT_THAT(with_index([](Json& json) { json["weight_map"]["model.extra"] = kSecond; }),
              HasSubstr("tensor model.extra"));
  EXPECT_THAT(with_index([](Json& json) {
                json["weight_map"].erase("model.extra");
                json["weight_map"]["model.embed_tokens.weight"] = kSecond;
              }),
              HasSubstr("tensor model.embed_tokens.weight"));
}

TEST_F(ShardedFolder, RefusesATensorThatTheIndexDoesNotList) {
  EXPECT_THAT(with_index([](Json& json) { json["weight_map"].erase("model.norm.weight"); }),
              HasSubstr("model.norm.weight, which the index"));
}

TEST_F(ShardedFolder, RefusesATensorInTwoFiles) {
  change_tensors(path_ + "/" + kSecond, [](EditableTensors& tensors) {
    tensors["model.embed_tokens.weight"] = {TensorType::kU8, {1}, "x"};
  });
  EXPECT_THAT(refusal(path_), HasSubstr("model.embed_tokens.weight is in two files"));
}

TEST_F(ShardedFolder, RefusesAnIndexOfTheWrongForm) {
  EXPECT_THAT(with_index([](Json& json) { json["weight_map"] = Json::array(); }),
              HasSubstr("weight_map"));
  EXPECT_THAT(with_index([](Json& json) { json.erase("weight_map"); }), HasSubstr("weight_map"));
  write_file(path_ + kIndex, "{");
  EXPECT_THAT(refusal(path_), HasSubstr("not valid JSON"));
}

TEST_F(ShardedFolder, ASingleFileWinsOverAnIndex) {
  std::filesystem::copy(path_ + "/" + kSecond, path_ + "/model.safetensors");
  EXPECT_EQ(HfFolder(path_).find("model.embed_tokens.weight"), nullptr);
}

TEST(HfFolder, RefusesAFolderWithoutAModel) {
  const TemporaryFolder folder;
  EXPECT_THAT(refusal(folder.file("nowhere")), HasSubstr("is not a folder"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("config.json"));
  std::filesystem::copy(model_fixture("llama-tied") + "/config.json", folder.path());
  EXPECT_THAT(refusal(folder.path()), HasSubstr("has neither model.safetensors nor"));
  write_file(folder.file("pytorch_model.bin"), "");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("save it again"));
}

TEST(HfFolder, CompanionFilesAreThoseOfTheTokenizerAndTheLicence) {
  const TemporaryFolder folder;
  for (const char* name : {"tokenizer.json", "LICENSE", "generation_config.json", "config.json",
                           "README.md", "optimizer.pt", "modeling_other.py"}) {
    write_file(folder.file(name), "");
  }
  EXPECT_THAT(companion_files(folder.path()),
              ElementsAre("LICENSE", "generation_config.json", "tokenizer.json"));
  EXPECT_TRUE(companion_files(folder.file("nowhere")).empty());
}

}  // namespace
}  // namespace swiattn
