// The training loop on a GPU that does not wait for the host: the same numbers as when it does,
// whatever ends the run, and memory that is all there after the second step.
#include <c10/cuda/CUDACachingAllocator.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>
#include <tuple>

#include "../model/deterministic_gpu.h"
#include "../model/small_models.h"
#include "model/parameter_table.h"
#include "small_run.h"
#include "trainer/memory_use.h"
#include "trainer/model_setup.h"
#include "trainer_fixture.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kLength = 1024;
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

TrainerText text(int64_t steps) { return {.window = 128, .steps = steps, .micro_batch = 2}; }

class GpuTrainerTest : public TrainerFixture, public testing::WithParamInterface<bool> {
 protected:
  GpuTrainerTest()
      : TrainerFixture(model_of(128), text(kSteps), kLength,
                       random_documents(60'000, model_of(128).vocab_size, 6), kGpu,
                       {fmt::format("--attention.mask_documents={}", GetParam())}) {}

  const DeterministicGpu deterministic_;
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

TEST_P(GpuTrainerTest, TrainsWithSampledFarRows) {
  const Transcript sampled = same({"--attention.far_sampling={enabled: true}"});
  EXPECT_EQ(sampled.outcome, RunOutcome::kFinished);
  const Transcript all = train("all", 1);
  ASSERT_EQ(sampled.steps.size(), all.steps.size());
  // The same loss from the same weights, but for the rounding of other kernels; then nearly so.
  EXPECT_NEAR(sampled.steps[0].loss, all.steps[0].loss, 1e-3 * all.steps[0].loss);
  EXPECT_NEAR(sampled.steps[0].full_ratio, all.steps[0].full_ratio, 0.01);
  if (GetParam()) {  // documents of at most 31 tokens: nothing is far, nothing drawn
    EXPECT_NEAR(sampled.steps[0].grad_norm, all.steps[0].grad_norm, 2e-3 * all.steps[0].grad_norm);
  } else {
    EXPECT_NE(sampled.steps[0].grad_norm, all.steps[0].grad_norm);
  }
  for (size_t i = 0; i < all.steps.size(); ++i) {
    EXPECT_NEAR(sampled.steps[i].loss, all.steps[i].loss, 0.01 * all.steps[i].loss) << i;
  }
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

// With validations and saves in between. Documents of all lengths need not repeat launches.
TEST_P(GpuTrainerTest, TellsTheSameWhenMicroBatchesAreReplayed) {
  const std::vector<std::vector<std::string>> modes = {
      {},
      {"--train.micro_batch=4"},
      {"--train.micro_batch=1"},
      {"--attention.mode=full"},
      {"--attention.mode=window"},
      {"--router.gate=random", "--router.ratio=0.3", "--regularizer.kind=none"},
      {"--attention.far_sampling={enabled: true}"}};
  for (size_t i = 0; i < modes.size(); ++i) {
    const std::string name = fmt::format("replayed{}", i), expected = fmt::format("launched{}", i);
    const Transcript launched = train(expected, 1, modes[i]);
    ASSERT_EQ(launched.outcome, RunOutcome::kFinished) << launched.error;
    const Transcript told = replay(name, 1, modes[i]);
    EXPECT_EQ(told.lines, launched.lines) << i;
    EXPECT_EQ(run_.checkpoint(name), run_.checkpoint(expected)) << i;
    const int64_t micro_batches = i == 1 ? 1 : i == 2 ? 4 : 2;
    const int64_t first = micro_batches == 1 ? 1 : 2;
    if (!GetParam()) {
      EXPECT_EQ(told.replays, kSteps * micro_batches - first) << i;
    }
  }
  // A run that is stopped and goes on launches its first micro-batches once more.
  Transcript told = replay("stopped", 1, {}, OtherRank{{}, 3});
  EXPECT_EQ(told.outcome, RunOutcome::kStopped);
  const Transcript rest = replay("stopped", 1);
  told.lines.insert(told.lines.end(), rest.lines.begin(), rest.lines.end());
  EXPECT_EQ(told.lines, train("launched", 1).lines);
  EXPECT_EQ(run_.checkpoint("stopped"), run_.checkpoint("launched"));
}

INSTANTIATE_TEST_SUITE_P(MaskDocuments, GpuTrainerTest, testing::Bool());

TEST(GpuTrainerTimeTest, StepsShareTheTimeOfTheRun) {
  constexpr int64_t kLong = 40;
  using Clock = std::chrono::steady_clock;
  const ModelConfig model = model_of(512);
  const TrainerRun run(model, text(kLong).yaml(), kLength,
                       random_documents(200'000, model.vocab_size, 6));
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

// Whether documents are masked, and whether micro-batches are replayed.
class GpuMemoryTest : public testing::TestWithParam<std::tuple<bool, bool>> {};

TEST_P(GpuMemoryTest, IsAllThereAfterTheSecondStep) {
  const auto [masks, captured] = GetParam();
  const ModelConfig model = model_of(512);
  const TrainerRun run(model, text(20).yaml(), kLength,
                       equal_documents(200'000, 200, model.vocab_size));
  using Held = std::pair<int64_t, int64_t>;  // calls of cudaMalloc, bytes
  std::vector<Held> held;                    // when step i + 1 begins
  const auto look = [&](int64_t) {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(0);
    held.emplace_back(stats.num_device_alloc, stats.reserved_bytes[0].current);
    EXPECT_EQ(stats.num_alloc_retries, 0);
  };
  const Transcript told = run.train(
      "run",
      {.lag = 1,
       .device = kGpu,
       .overrides = {"--validation.every=100", fmt::format("--attention.mask_documents={}", masks)},
       .captured = captured,
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

INSTANTIATE_TEST_SUITE_P(MaskDocuments, GpuMemoryTest,
                         testing::Combine(testing::Bool(), testing::Bool()));

// At the head where the vocabulary is large, else in the FFN of a layer.
TEST(GpuPeakMemoryTest, IsWhatADryRunCounts) {
  for (const int64_t vocab_size : {256, 32768}) {
    for (const char* mode : {"none", "selective", "layer"}) {
      ModelConfig model = model_of(512);
      model.vocab_size = vocab_size;
      model.layers = 8;
      const TrainerRun run(model, text(4).yaml(), kLength,
                           equal_documents(200'000, 200, vocab_size));
      const std::vector<std::string> overrides = {
          "--validation.every=100", "--train.micro_batch=16", "--train.global_batch=16",
          fmt::format("--train.recompute={}", mode)};
      c10::cuda::CUDACachingAllocator::resetPeakStats(0);
      const Transcript told = run.train("run", {.lag = 1, .device = kGpu, .overrides = overrides});
      ASSERT_EQ(told.outcome, RunOutcome::kFinished) << told.error;

      const RunConfig config = run.config("run", overrides);
      const CausalLmOptions options = model_options(config, model);
      const auto units = parameter_table(model, has_router(config));
      const FlatParameters parameters(units, {}, compute_type(config), c10::kMeta,
                                      FlatParameters::Purpose::kTraining, moment_type(config));
      const auto all = static_cast<double>(memory_use(parameters).total());
      const auto counted = static_cast<double>(
          peak_activations(options.recompute, model, options, compute_type(config),
                           config.train.micro_batch * kLength));
      const double peak = told.steps.back().memory_gib * (1 << 30) - all;
      fmt::print("vocabulary {}, recompute {}: {:.0f} MiB, counted {:.0f} MiB\n", vocab_size, mode,
                 peak / (1 << 20), counted / (1 << 20));
      constexpr double kWorkspace = 64 << 20;  // of libraries, and the batch
      EXPECT_GT(peak, 0.97 * counted) << vocab_size << " " << mode;
      EXPECT_LT(peak, 1.05 * counted + kWorkspace) << vocab_size << " " << mode;
    }
  }
}

}  // namespace
}  // namespace swiattn
