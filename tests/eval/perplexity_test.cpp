// What swiattn-eval measures on a hybrid's folder, token by token, against the float64 judge.
#include "eval/perplexity.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "../base/temporary_folder.h"
#include "../model/judge.h"
#include "../model/small_models.h"
#include "../trainer/small_run.h"
#include "base/file_system.h"
#include "checkpoint/hf_export.h"
#include "checkpoint/hf_folder.h"
#include "eval/evaluation_model.h"

namespace swiattn {
namespace {

using Document = std::vector<int32_t>;

class PerplexityTest : public testing::Test {
 protected:
  struct Measured {
    std::vector<TokenScore> scores;
    PerplexityResult result;
  };

  Measured measure(Branches branches) const {
    Measured measured;
    PerplexityMeter meter(model_.model(), {.sequence_length = 64,
                                           .stride = 64,
                                           .branches = branches,
                                           .per_token = [&](const TokenScore& score) {
                                             measured.scores.push_back(score);
                                           }});
    for (const Document& document : documents_) meter.add(document);
    measured.result = meter.result();
    return measured;
  }

  judge::Verdict verdict(const Document& document) const {
    const auto length = static_cast<int64_t>(document.size()) - 1;
    judge::Tokens tokens{.sequences = 1, .length = length, .samples = {0}};
    tokens.inputs.assign(document.begin(), document.end() - 1);
    tokens.targets.assign(document.begin() + 1, document.end());
    tokens.positions.resize(tokens.inputs.size());
    std::iota(tokens.positions.begin(), tokens.positions.end(), 0);
    tokens.starts = {0, static_cast<int32_t>(length)};
    const CausalLmOptions& options = model_.model().options();
    return judge::evaluate(config_, options.attention, options.window, options.gate,
                           {.kind = "none"}, weights_, tokens);
  }

  // A hybrid's folder, as a run of it exports it.
  std::string write_hybrid() const {
    write_model_folder(folder_.file("base"), config_, weights_);
    const ModelConfig config = HfFolder(folder_.file("base")).config();
    FlatParameters parameters(parameter_table(config, true), {}, at::kFloat, at::kCPU,
                              FlatParameters::Purpose::kEvaluation);
    load(parameters, weights_);
    ExportOptions options;
    options.dtype = "float32";
    options.attention.mode = "switch";
    options.attention.window = 8;
    export_hybrid(FileSystem::posix(), parameters, config, options, folder_.file("hybrid"));
    return folder_.file("hybrid");
  }

  const TemporaryFolder folder_;
  const ModelConfig config_ = small_config(Architecture::kLlama);
  const std::map<std::string, at::Tensor> weights_ = random_weights(config_, true, 5);
  const EvaluationModel model_{write_hybrid(), {}, at::kCPU};
  // Of one token, which predicts nothing, to one of a whole window of the meter.
  const std::vector<Document> documents_ = [this] {
    std::mt19937_64 random(7);
    std::vector<Document> documents;
    for (const size_t size : {1, 2, 24, 65}) {
      Document& document = documents.emplace_back(size);
      const auto vocabulary = static_cast<uint64_t>(config_.vocab_size);
      for (int32_t& token : document) token = static_cast<int32_t>(random() % vocabulary);
    }
    return documents;
  }();
};

TEST_F(PerplexityTest, ScoresEveryTokenAsTheJudgeDoes) {
  for (const Branches branches : {Branches::kTaken, Branches::kBoth}) {
    const Measured measured = measure(branches);
    auto score = measured.scores.begin();
    double sum = 0.0;
    for (size_t d = 0; d < documents_.size(); ++d) {
      const Document& document = documents_[d];
      if (document.size() == 1) continue;
      const judge::Verdict expected = verdict(document);
      for (size_t i = 0; i + 1 < document.size(); ++i, ++score) {
        ASSERT_NE(score, measured.scores.end());
        EXPECT_EQ(score->document, static_cast<int64_t>(d));
        EXPECT_EQ(score->position, static_cast<int64_t>(i) + 1);
        EXPECT_EQ(score->token, document[i + 1]);
        const double nll = expected.nll[static_cast<int64_t>(i)].item<double>();
        EXPECT_NEAR(score->nll, nll, 1e-5 * nll);
        sum += nll;
        for (size_t layer = 0; layer < expected.routes.size(); ++layer) {
          EXPECT_EQ(score->route[layer] != 0,
                    expected.routes[layer][static_cast<int64_t>(i)].item<bool>());
        }
      }
    }
    EXPECT_EQ(score, measured.scores.end());
    EXPECT_EQ(measured.result.documents, 4);
    EXPECT_EQ(measured.result.tokens, 1 + 23 + 64);
    EXPECT_NEAR(measured.result.nll, sum / 88, 1e-5 * sum / 88);
  }
}

// swiattn-eval as a user starts it, on a copy of a hybrid.
class EvalProgramTest : public testing::Test {
 protected:
  EvalProgramTest() {
    std::filesystem::copy(std::string(SWIATTN_TEST_FIXTURES) + "/models/hybrid-llama", model_,
                          std::filesystem::copy_options::recursive);
  }

  // On a flat shard of these tokens; 2 ends a document.
  ProgramResult perplexity(const std::vector<int32_t>& tokens, const std::string& flags) const {
    write_flat_shard(folder_.file("tokens.bin"), tokens);
    std::ofstream(folder_.file("tokens.json")) << R"({"eos_id": 2, "token_type": "u16"})";
    return run_command(
        fmt::format("{}/swiattn-eval perplexity --device cpu --model {} --tokens {} {}",
                    SWIATTN_PROGRAMS, model_, folder_.file("tokens.bin"), flags));
  }

  const TemporaryFolder folder_;
  const std::string model_ = folder_.file("model");
};

TEST_F(EvalProgramTest, WritesNoScoresOverAFileOfTheModelOrOverTheTokens) {
  for (const std::string& input : {model_ + "/config.json", model_ + "/model.safetensors",
                                   folder_.file("tokens.bin"), folder_.file("tokens.json")}) {
    const ProgramResult result = perplexity({5, 6, 7, 2}, "--per-token " + input);
    EXPECT_EQ(result.code, 2) << result.output;
    EXPECT_NE(result.output.find("it is an input as well"), std::string::npos) << result.output;
  }
  EXPECT_EQ(perplexity({5, 6, 7, 2}, "--per-token " + folder_.file("scores.jsonl")).code, 0);
}

TEST_F(EvalProgramTest, LeavesNothingBehindWhereThereIsNothingToPredict) {
  const ProgramResult result = perplexity({2, 2, 2}, "--per-token " + folder_.file("scores.jsonl"));
  EXPECT_EQ(result.code, 3) << result.output;
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("scores")) << entry.path();
  }
}

TEST_F(PerplexityTest, ComparesTheBranchesWhereBothAreAskedFor) {
  const PerplexityResult taken = measure(Branches::kTaken).result;
  const PerplexityResult both = measure(Branches::kBoth).result;
  EXPECT_GT(both.full_ratio, 0.0);
  EXPECT_LT(both.full_ratio, 1.0);
  EXPECT_EQ(taken.full_ratio, both.full_ratio);
  EXPECT_EQ(taken.full_ratio_far, both.full_ratio_far);
  ASSERT_EQ(taken.layers.size(), both.layers.size());
  for (size_t layer = 0; layer < both.layers.size(); ++layer) {
    EXPECT_EQ(taken.layers[layer].full_ratio, both.layers[layer].full_ratio);
    EXPECT_NEAR(taken.layers[layer].logit_mean, both.layers[layer].logit_mean, 1e-5);
    EXPECT_TRUE(std::isnan(taken.layers[layer].disagreement_mean));
    EXPECT_GT(both.layers[layer].disagreement_mean, 0.0);
  }
}

}  // namespace
}  // namespace swiattn
