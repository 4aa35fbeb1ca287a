// The training loop on a GPU that does not wait for the host: the same numbers as when it does,
// whatever ends the run, and memory that is all there after the second step.
#include <ATen/Context.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

#include "../model/small_models.h"
#include "small_run.h"
#include "trainer_run.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kSteps = 12;
constexpr int64_t kLength = 1024;
constexpr int64_t kBatch = 4;
const c10::Device kGpu(c10::kCUDA, 0);

ModelConfig model_of(int64_t hidden_size) {
  ModelConfig config = small_config(Architecture::kLlama);
  config.hidden_size = hidden_size;
  config.intermediate_size = 2 * hidden_size;
  config.heads = hidden_size / 64;
  config.kv_heads = config.heads / 2;
  config.head_dim = 64;
  config.max_positions = kLength;
  return config;
}

// Documents of equal length behind each other: each sample cuts them elsewhere, and all
// micro-batches have as many up to a power of two, so that they are computed by the same plans.
std::vector<int32_t> equal_documents(int64_t count, int64_t length, int64_t vocab_size) {
  std::vector<int32_t> tokens = random_documents(count, vocab_size, 6);
  const auto eos = static_cast<int32_t>(vocab_size - 1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool ends = (static_cast<int64_t>(i) + 1) % length == 0;
    if (ends || tokens[i] == eos) tokens[i] = ends ? eos : 0;
  }
  return tokens;
}

std::string text(int64_t steps) {
  return fmt::format(
      "attention: {{window: 128}}\n"
      "regularizer: {{gamma: 0.02}}\n"
      "train: {{steps: {}, global_batch: {}, micro_batch: 2}}\n"
      "optimizer: {{learning_rate: 1.0e-3}}\n"
      "schedule: {{warmup: 2}}\n"
      "validation: {{every: 5, batches: 1}}\n"
      "checkpoint: {{every: 7, keep_last: 2}}\n",
      steps, kBatch);
}

class GpuTrainerTest : public testing::TestWithParam<bool> {
 protected:
  GpuTrainerTest()
      : run_(model_of(128), text(kSteps), kLength,
             random_documents(60'000, model_of(128).vocab_size, 6)) {
    at::globalContext().setDeterministicAlgorithms(true, false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~GpuTrainerTest() override { at::globalContext().setDeterministicAlgorithms(false, false); }

  Transcript train(const std::string& name, size_t lag, std::vector<std::string> overrides = {},
                   std::optional<OtherRank> other = {}) const {
    overrides.push_back(fmt::format("--attention.mask_documents={}", GetParam()));
    return run_.train(
        name,
        {.lag = lag, .device = kGpu, .overrides = std::move(overrides), .other = std::move(other)});
  }

  Transcript same(std::vector<std::string> overrides = {}, std::optional<OtherRank> other = {}) {
    const Transcript at_once = train("at_once", 0, overrides, other);
    Transcript later = train("later", 1, overrides, other);
    EXPECT_EQ(later.lines, at_once.lines);
    EXPECT_EQ(later.outcome, at_once.outcome);
    EXPECT_EQ(later.error, at_once.error);
    EXPECT_EQ(later.progress, at_once.progress);
    EXPECT_EQ(run_.checkpoint("later"), run_.checkpoint("at_once"));
    return later;
  }

  TrainerRun run_;
};

TEST_P(GpuTrainerTest, TellsTheSameAsWhenItWaits) {
  const Transcript told = same();
  EXPECT_EQ(told.outcome, RunOutcome::kFinished);
  EXPECT_EQ(told.steps.size(), static_cast<size_t>(kSteps));
  EXPECT_FALSE(run_.checkpoint("later").empty());
}

TEST_P(GpuTrainerTest, SkipsTheSameStepsAndEndsAtTheSame) {
  const Transcript told = same({"--numerics.max_skips_in_a_row=3"}, OtherRank{{2, 5, 8, 9, 10}});
  EXPECT_THAT(told.error, HasSubstr("Step 10: 3 steps in a row were not finite. The weights are "
                                    "those of step 7;"));
  EXPECT_EQ(told.progress.skipped, 5);
}

TEST_P(GpuTrainerTest, MovesGammaByTheRatioOfTheStepBefore) {
  same({"--regularizer.kind=target_ratio", "--regularizer.target_ratio=0.25"});
}

TEST_P(GpuTrainerTest, StopsAndGoesOnToTheSameEnd) {
  const std::vector<std::string> whole = train("whole", 1).lines;
  Transcript told = train("stopped", 1, {}, OtherRank{{}, 3});
  EXPECT_EQ(told.outcome, RunOutcome::kStopped);
  EXPECT_EQ(told.progress.step, 4);
  const Transcript rest = train("stopped", 1);
  told.lines.insert(told.lines.end(), rest.lines.begin(), rest.lines.end());
  EXPECT_EQ(told.lines, whole);
  EXPECT_EQ(run_.checkpoint("stopped"), run_.checkpoint("whole"));
}

INSTANTIATE_TEST_SUITE_P(MaskDocuments, GpuTrainerTest, testing::Bool());

TEST(GpuTrainerTimeTest, StepsShareTheTimeOfTheRun) {
  constexpr int64_t kLong = 40;
  using Clock = std::chrono::steady_clock;
  const ModelConfig model = model_of(512);
  const TrainerRun run(model, text(kLong), kLength, random_documents(200'000, model.vocab_size, 6));
  std::vector<Clock::time_point> begun;
  const Transcript told =
      run.train("run", {.lag = 1,
                        .device = kGpu,
                        .overrides = {"--validation.every=100", "--checkpoint.every=100"},
                        .on_step = [&](int64_t) { begun.push_back(Clock::now()); }});
  ASSERT_EQ(told.steps.size(), static_cast<size_t>(kLong));
  const double wall = std::chrono::duration<double>(begun.back() - begun[2]).count();
  const double steps =
      std::accumulate(told.steps.begin() + 2, told.steps.end() - 1, 0.0,
                      [](double sum, const StepMetrics& step) { return sum + step.step_seconds; });
  EXPECT_NEAR(steps, wall, 0.15 * wall);
  for (const StepMetrics& step : told.steps) EXPECT_GT(step.step_seconds, 1e-4) << step.step;
}

class GpuMemoryTest : public testing::TestWithParam<bool> {};

TEST_P(GpuMemoryTest, IsAllThereAfterTheSecondStep) {
  const ModelConfig model = model_of(512);
  const TrainerRun run(model, text(20), kLength, equal_documents(200'000, 200, model.vocab_size));
  using Held = std::pair<int64_t, int64_t>;  // calls of cudaMalloc, bytes
  std::vector<Held> held;                    // when step i + 1 begins
  const auto look = [&](int64_t) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
    held.emplace_back(stats.num_device_alloc, stats.reserved_bytes[0].current);
    EXPECT_EQ(stats.num_alloc_retries, 0);
  };
  const Transcript told =
      run.train("run", {.lag = 1,
                        .device = kGpu,
                        .overrides = {"--validation.every=100",
                                      fmt::format("--attention.mask_documents={}", GetParam())},
                        .on_step = look});
  ASSERT_EQ(told.outcome, RunOutcome::kFinished) << told.error;
  ASSERT_EQ(held.size(), 20U);
  for (size_t i = 3; i < held.size(); ++i) {
    EXPECT_EQ(held[i], held[2]) << "before step " << i + 1;
  }
  // The lists of documents, some hundred bytes, differ from step to step.
  EXPECT_LT(told.steps.back().memory_gib, 1.001 * told.steps[1].memory_gib);
  ASSERT_EQ(told.told.size(), 1U);
  EXPECT_THAT(told.told.front(), HasSubstr("activations and workspace"));
}

INSTANTIATE_TEST_SUITE_P(MaskDocuments, GpuMemoryTest, testing::Bool());

}  // namespace
}  // namespace swiattn
