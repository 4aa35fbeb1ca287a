// Moments in bfloat16, on whole runs of swiattn-train: the loss of float32 moments within the noise
// of their rounding, resumes bit for bit, and a type that is not changed in passing.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "../base/temporary_folder.h"
#include "../model/small_models.h"
#include "base/file_system.h"
#include "checkpoint/safetensors.h"
#include "small_run.h"

namespace swiattn {
namespace {

constexpr int kSteps = 80;
const std::string kNarrow = "--optimizer.moments=bfloat16 ";

class MomentsTest : public testing::TestWithParam<int> {
 protected:
  MomentsTest() {
    const ModelConfig config = small_config(Architecture::kLlama);
    write_model_folder(root() + "/base", config, random_weights(config, false, 5));
    write_flat_shard(root() + "/tokens.bin", random_documents(20'000, config.vocab_size, 6));
    std::ofstream(root() + "/run.yaml") << fmt::format(
        "run: {{folder: {0}/run}}\n"
        "model: {{init_from: {0}/base, compute: float32}}\n"
        "attention: {{window: 8}}\n"
        "regularizer: {{gamma: 0.02}}\n"
        "data: {{sequence_length: 32, sources: [{{path: {0}/tokens.bin, eos_id: 60}}]}}\n"
        "train: {{steps: {1}, global_batch: 8, micro_batch: 2}}\n"
        "optimizer: {{learning_rate: 3.0e-3}}\n"
        "schedule: {{warmup: 8}}\n"
        "checkpoint: {{every: 60, export_at_end: false}}\n",
        root(), kSteps);
  }

  std::string root() const { return folder_.path(); }
  std::string checkpoint(const std::string& name, int step) const {
    return fmt::format("{}/{}/checkpoints/step-{:08}", root(), name, step);
  }

  ProgramResult train(const std::string& name, const std::string& flags, int ranks = 1) const {
    const std::string launcher =
        ranks == 1 ? "" : fmt::format("mpirun --allow-run-as-root --oversubscribe -np {} ", ranks);
    return run_command(
        fmt::format("{}{}/swiattn-train --device cpu --config {}/run.yaml "
                    "--run.folder={}/{} {}",
                    launcher, SWIATTN_PROGRAMS, root(), root(), name, flags));
  }

  std::vector<double> losses(const std::string& name) const {
    std::vector<double> result;
    for (const Json& line : read_metrics(root() + "/" + name, "train")) {
      result.push_back(line.at("loss").get<double>());
    }
    return result;
  }

  TensorType moment_type(const std::string& name) const {
    const SafetensorsFile file(checkpoint(name, kSteps) + "/optimizer.safetensors");
    return file.entry("exp_avg.model.norm.weight").type;
  }

 private:
  TemporaryFolder folder_;
};

TEST_P(MomentsTest, AResumeRepeatsTheBits) {
  const ProgramResult whole = train("whole", kNarrow, GetParam());
  ASSERT_EQ(whole.code, 0) << whole.output;
  const ProgramResult resumed =
      train("resumed", kNarrow + "--resume " + checkpoint("whole", 60), GetParam());
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  const std::vector<double> all = losses("whole");
  EXPECT_EQ(losses("resumed"), std::vector(all.begin() + 60, all.end()));
  for (const char* file : {"/model.safetensors", "/optimizer.safetensors"}) {
    EXPECT_EQ(read_file(checkpoint("resumed", kSteps) + file, ExitCode::kCheckpoint),
              read_file(checkpoint("whole", kSteps) + file, ExitCode::kCheckpoint))
        << file;
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, MomentsTest, testing::Values(1, 2));

using MomentTypesTest = MomentsTest;

TEST_F(MomentTypesTest, TheLossIsThatOfFloat32MomentsWithinTheNoise) {
  ASSERT_EQ(train("wide", "").code, 0);
  ASSERT_EQ(train("narrow", kNarrow).code, 0);
  EXPECT_EQ(moment_type("wide"), TensorType::kF32);
  EXPECT_EQ(moment_type("narrow"), TensorType::kBF16);
  const std::vector<double> wide = losses("wide"), narrow = losses("narrow");
  ASSERT_EQ(wide.size(), static_cast<size_t>(kSteps));
  ASSERT_EQ(narrow.size(), wide.size());
  EXPECT_NE(narrow, wide);
  EXPECT_LT(wide.back(), wide.front() - 0.5);  // it has learned something
  double difference = 0.0;
  for (size_t i = 0; i < wide.size(); ++i) {
    EXPECT_NEAR(narrow[i], wide[i], 0.01 * wide[i]) << "step " << i + 1;
    difference += (narrow[i] - wide[i]) / static_cast<double>(kSteps);
  }
  EXPECT_LT(std::abs(difference), 0.002 * wide.back());
}

TEST_F(MomentTypesTest, AnotherTypeIsRefusedUnlessItIsAccepted) {
  ASSERT_EQ(train("run", "").code, 0);
  const std::string from = "--resume " + checkpoint("run", 60) + " ";
  const ProgramResult refused = train("changed", from + kNarrow);
  EXPECT_EQ(refused.code, 2) << refused.output;
  EXPECT_NE(refused.output.find("optimizer.moments"), std::string::npos) << refused.output;
  const std::string allowed = "--allow-change optimizer.moments ";
  const ProgramResult changed = train("changed", from + kNarrow + allowed);
  ASSERT_EQ(changed.code, 0) << changed.output;
  EXPECT_EQ(moment_type("changed"), TensorType::kBF16);
  EXPECT_NEAR(losses("changed").back(), losses("run").back(), 0.01 * losses("run").back());
  // And back.
  const ProgramResult again =
      train("again", "--train.steps=100 --resume " + checkpoint("changed", kSteps) + " " + allowed +
                         "--allow-change train.steps");
  ASSERT_EQ(again.code, 0) << again.output;
}

TEST_F(MomentTypesTest, ADryRunTellsTheirMemory) {
  const auto memory = [&](const std::string& flags) {
    const std::string text = train("dry", flags + " --dry-run").output;
    const size_t begin = text.find("moments ", text.find("#   memory"));
    return text.substr(begin, text.find(';', begin) - begin);
  };
  const std::string big = " --model.init_from=null --model.architecture=" + root() + "/big.json";
  std::ofstream(root() + "/big.json")
      << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 61,
             "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2,
             "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128,
             "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
             "tie_word_embeddings": true, "hidden_act": "silu", "torch_dtype": "float32",
             "eos_token_id": 60})";
  // 2 (4 d^2 + 3 d f) + 61 d and some vectors: 33.6 M parameters, two moments each.
  EXPECT_EQ(memory(big), "moments 256.5 MiB");
  EXPECT_EQ(memory(big + " " + kNarrow), "moments 128.3 MiB");
}

}  // namespace
}  // namespace swiattn
