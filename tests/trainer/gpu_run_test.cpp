// Whole runs of swiattn-train on a GPU: they follow the CPU's float32 run, and a deterministic run
// repeats itself bit for bit, interrupted or not.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "../base/temporary_folder.h"
#include "../model/small_models.h"
#include "base/file_system.h"
#include "base/hash.h"
#include "small_run.h"

namespace swiattn {
namespace {

constexpr int kSteps = 10;

// Heads as wide as the GPU's attention kernels take them.
ModelConfig gpu_config() {
  ModelConfig config = small_config(Architecture::kLlama);
  config.hidden_size = 128;
  config.intermediate_size = 256;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 64;
  return config;
}

class GpuRunTest : public testing::Test {
 protected:
  GpuRunTest() {
    const ModelConfig config = gpu_config();
    auto weights = random_weights(config, false, 5);
    // As a trained model has them, so that bfloat16's rounding stays noise.
    for (auto& [name, tensor] : weights) {
      if (tensor.dim() == 2) tensor.mul_(0.2);
    }
    write_model_folder(root() + "/base", config, weights);
    write_flat_shard(root() + "/tokens.bin", random_documents(40'000, config.vocab_size, 6));
    std::ofstream(root() + "/run.yaml") << fmt::format(
        "run: {{folder: {0}/run}}\n"
        "model: {{init_from: {0}/base}}\n"
        "attention: {{window: 32}}\n"
        "regularizer: {{gamma: 0.02}}\n"
        "data: {{sequence_length: 256, sources: [{{path: {0}/tokens.bin, eos_id: 60}}]}}\n"
        "train: {{steps: {1}, global_batch: 8, micro_batch: 4}}\n"
        "optimizer: {{learning_rate: 1.0e-3}}\n"
        "schedule: {{warmup: 2}}\n"
        "checkpoint: {{every: 5}}\n",
        root(), kSteps);
  }

  std::string root() const { return folder_.path(); }

  void train(const std::string& name, const std::string& flags) const {
    const ProgramResult result =
        run_command(fmt::format("{}/swiattn-train --config {}/run.yaml --run.folder={}/{} {}",
                                SWIATTN_PROGRAMS, root(), root(), name, flags));
    ASSERT_EQ(result.code, 0) << result.output;
  }

  std::vector<double> values(const std::string& name, const char* key) const {
    std::vector<double> result;
    for (const Json& line : read_metrics(root() + "/" + name, "train")) {
      result.push_back(line.at(key).get<double>());
    }
    return result;
  }

  std::string weights_hash(const std::string& name) const {
    const std::string path =
        fmt::format("{}/{}/checkpoints/step-{:08}/model.safetensors", root(), name, kSteps);
    return format_hash(hash_text(read_file(path, ExitCode::kCheckpoint)));
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(GpuRunTest, FollowsTheFloat32RunOfTheCpu) {
  train("cpu", "--device cpu --model.compute=float32");
  train("float32", "--device cuda --model.compute=float32");
  train("bfloat16", "--device cuda");
  const auto cpu = values("cpu", "loss");
  const auto float32 = values("float32", "loss");
  const auto bfloat16 = values("bfloat16", "loss");
  ASSERT_EQ(cpu.size(), kSteps);
  ASSERT_EQ(float32.size(), kSteps);
  ASSERT_EQ(bfloat16.size(), kSteps);
  for (size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_NEAR(float32[i], cpu[i], 1e-4 * cpu[i]) << "step " << i + 1;
    EXPECT_NEAR(bfloat16[i], cpu[i], 5e-3 * cpu[i]) << "step " << i + 1;
  }
  const auto ratio_cpu = values("cpu", "full_ratio");
  const auto ratio_bfloat16 = values("bfloat16", "full_ratio");
  for (size_t i = 0; i < cpu.size(); ++i) {
    EXPECT_NEAR(ratio_bfloat16[i], ratio_cpu[i], 0.02) << "step " << i + 1;
  }
}

// With documents of all lengths, and with whole samples of equal length, which other libraries
// compute.
class DeterministicGpuRunTest : public GpuRunTest, public testing::WithParamInterface<bool> {};

TEST_P(DeterministicGpuRunTest, RepeatsItselfAndItsResume) {
  const std::string flags = fmt::format(
      "--device cuda --numerics.deterministic=true --attention.window=128 "
      "--attention.mask_documents={}",
      GetParam());
  train("first", flags);
  train("second", flags);
  EXPECT_EQ(values("second", "loss"), values("first", "loss"));
  EXPECT_EQ(values("second", "grad_norm"), values("first", "grad_norm"));
  EXPECT_EQ(weights_hash("second"), weights_hash("first"));

  const std::string middle = root() + "/first/checkpoints/step-00000005";
  train("resumed", flags + " --resume " + middle);
  const auto whole = values("first", "loss");
  EXPECT_EQ(values("resumed", "loss"), std::vector(whole.begin() + 5, whole.end()));
  EXPECT_EQ(weights_hash("resumed"), weights_hash("first"));
}

INSTANTIATE_TEST_SUITE_P(MaskDocuments, DeterministicGpuRunTest, testing::Bool());

}  // namespace
}  // namespace swiattn
