// Sampled far rows on whole runs of swiattn-train: the draws of a run belong to its samples, so
// that a resume repeats them bit for bit, and ranks and micro-batches share them out.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "../base/temporary_folder.h"
#include "../model/small_models.h"
#include "base/file_system.h"
#include "small_run.h"

namespace swiattn {
namespace {

constexpr int kSteps = 12;

class FarSamplingRunTest : public testing::Test {
 protected:
  FarSamplingRunTest() {
    const ModelConfig config = small_config(Architecture::kLlama);
    write_model_folder(root() + "/base", config, random_weights(config, false, 5));
    write_flat_shard(root() + "/tokens.bin", random_documents(6000, config.vocab_size, 6));
    std::ofstream(root() + "/run.yaml") << fmt::format(
        "run: {{folder: {0}/run}}\n"
        "model: {{init_from: {0}/base, compute: float32}}\n"
        "attention: {{window: 8, far_sampling: {{enabled: true}}}}\n"
        "regularizer: {{gamma: 0.02}}\n"
        "data: {{sequence_length: 32, sources: [{{path: {0}/tokens.bin, eos_id: 60}}],\n"
        "       validation: [{{name: held, path: {0}/tokens.bin, eos_id: 60}}]}}\n"
        "train: {{steps: {1}, global_batch: 8}}\n"
        "optimizer: {{learning_rate: 1.0e-3}}\n"
        "schedule: {{warmup: 2}}\n"
        "validation: {{every: 6, batches: 2}}\n"
        "checkpoint: {{every: 6, export_at_end: false}}\n",
        root(), kSteps);
  }

  std::string root() const { return folder_.path(); }
  std::string checkpoint(const std::string& name, int step) const {
    return fmt::format("{}/{}/checkpoints/step-{:08}", root(), name, step);
  }

  // Returns what was printed.
  std::string train(const std::string& name, const std::string& flags, int ranks = 1) const {
    const std::string launcher =
        ranks == 1 ? "" : fmt::format("mpirun --allow-run-as-root --oversubscribe -np {} ", ranks);
    const ProgramResult result = run_command(
        fmt::format("{}{}/swiattn-train --device cpu --config {}/run.yaml --run.folder={}/{} {}",
                    launcher, SWIATTN_PROGRAMS, root(), root(), name, flags));
    EXPECT_EQ(result.code, 0) << result.output;
    return result.output;
  }

  std::vector<double> values(const std::string& name, const std::string& key) const {
    std::vector<double> result;
    for (const Json& line : read_metrics(root() + "/" + name, "train")) {
      result.push_back(line.at(key).get<double>());
    }
    return result;
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(FarSamplingRunTest, AResumeRepeatsTheBits) {
  for (const int ranks : {1, 2}) {
    const std::string name = fmt::format("whole-{}", ranks);
    const std::string again = fmt::format("resumed-{}", ranks);
    train(name, "", ranks);
    train(again, "--resume " + checkpoint(name, 6), ranks);
    for (const char* key : {"loss", "regularizer", "grad_norm", "disagreement_mean"}) {
      const std::vector<double> all = values(name, key);
      ASSERT_EQ(all.size(), static_cast<size_t>(kSteps));
      EXPECT_EQ(values(again, key), std::vector(all.begin() + 6, all.end())) << key;
    }
    for (const char* file : {"/model.safetensors", "/optimizer.safetensors"}) {
      EXPECT_EQ(read_file(checkpoint(again, kSteps) + file, ExitCode::kCheckpoint),
                read_file(checkpoint(name, kSteps) + file, ExitCode::kCheckpoint))
          << file;
    }
  }
}

// Other draws would change the first step's estimates by tenths; another order of sums changes them
// by rounding, which training then magnifies.
TEST_F(FarSamplingRunTest, RanksAndMicroBatchesDrawAlike) {
  train("one", "");
  train("two", "--train.micro_batch=2", 2);
  train("four", "--train.micro_batch=4");
  train("seed", "--run.seed=1");
  for (const char* key : {"loss", "regularizer", "grad_norm", "disagreement_mean", "gamma_mean"}) {
    const std::vector<double> expected = values("one", key);
    for (const char* name : {"two", "four"}) {
      const std::vector<double> found = values(name, key);
      ASSERT_EQ(found.size(), expected.size());
      EXPECT_NEAR(found[0], expected[0], 1e-5 * expected[0]) << name << " " << key;
      EXPECT_NEAR(found[5], expected[5], 1e-3 * expected[5]) << name << " " << key;
    }
  }
  EXPECT_NE(values("seed", "disagreement_mean"), values("one", "disagreement_mean"));
}

TEST_F(FarSamplingRunTest, SaysOnceThatItSavesNoTimeOnACpu) {
  const auto times_told = [](const std::string& text) {
    size_t times = 0, at = 0;
    while ((at = text.find("attention.far_sampling saves no time", at)) != std::string::npos) {
      ++times;
      ++at;
    }
    return times;
  };
  for (const int ranks : {1, 2}) {
    const std::string name = fmt::format("run-{}", ranks);
    EXPECT_EQ(times_told(train(name, "", ranks)), 1U);
    EXPECT_EQ(times_told(read_file(root() + "/" + name + "/run.log", ExitCode::kData)), 1U);
    EXPECT_EQ(times_told(train(name, "", ranks)), 0U) << "the run is finished";
  }
  EXPECT_EQ(times_told(train("all", "'--attention.far_sampling={enabled: false}'")), 0U);
}

TEST_F(FarSamplingRunTest, TheFirstLossIsExactAndTheOthersFollow) {
  train("sampled", "");
  train("all", "'--attention.far_sampling={enabled: false}'");
  const std::vector<double> sampled = values("sampled", "loss"), all = values("all", "loss");
  ASSERT_EQ(sampled.size(), all.size());
  EXPECT_EQ(sampled[0], all[0]);
  EXPECT_NE(values("sampled", "grad_norm")[0], values("all", "grad_norm")[0]);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_NEAR(sampled[i], all[i], 0.01 * all[i]) << i;
}

}  // namespace
}  // namespace swiattn
