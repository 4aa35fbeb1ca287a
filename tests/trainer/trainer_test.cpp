// The training loop tells the same whether it reads the results of a step at once or while the next
// one is computed: every number, in the same order, and the same ends of a run.
#include "trainer/trainer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "../model/small_models.h"
#include "base/file_system.h"
#include "base/json.h"
#include "model/parameter_table.h"
#include "small_run.h"
#include "trainer/dry_run.h"
#include "trainer/memory_use.h"
#include "trainer/model_setup.h"
#include "trainer_fixture.h"

namespace swiattn {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kLength = 32;

class TrainerTest : public TrainerFixture {
 protected:
  TrainerTest()
      : TrainerFixture(model(), {.compute = "float32", .window = 8}, kLength, tokens(), at::kCPU) {}

  static ModelConfig model() { return small_config(Architecture::kLlama); }
  static std::vector<int32_t> tokens() { return random_documents(3000, model().vocab_size, 6); }

  // Trains on these tokens, but for one of step 9 that the model does not know.
  void damage_step_9(std::vector<int32_t> tokens) const {
    tokens[8 * kBatch * kLength + 5] = model().vocab_size + 7;
    write_flat_shard(run_.root() + "/tokens.bin", tokens);
  }
  static std::vector<std::string> last_calls(const Transcript& told, int64_t count) {
    return {told.calls.end() - count, told.calls.end()};
  }
  // Of steps 6 to 12, which are profiled.
  Transcript end_at_the_first_skip(const std::optional<OtherRank>& other) const {
    return run_.train(
        "run", {.lag = 1,
                .overrides = {"--data.validation=[]", "--numerics.max_skips_in_a_row=1",
                              "--checkpoint.every=100", "--log.profile={start: 6, steps: 7}"},
                .other = other,
                .profile = true});
  }
};

TEST_F(TrainerTest, TellsEveryStepOnceAndInOrder) {
  const Transcript told = same();
  ASSERT_EQ(told.steps.size(), static_cast<size_t>(kSteps));
  for (int64_t i = 0; i < kSteps; ++i) {
    EXPECT_EQ(told.steps[static_cast<size_t>(i)].step, i + 1);
    EXPECT_EQ(told.steps[static_cast<size_t>(i)].tokens, (i + 1) * kBatch * kLength);
    EXPECT_GT(told.steps[static_cast<size_t>(i)].targets, kBatch * kLength / 2);
    EXPECT_LE(told.steps[static_cast<size_t>(i)].targets, kBatch * kLength);
  }
  EXPECT_EQ(told.outcome, RunOutcome::kFinished);
  EXPECT_FALSE(run_.checkpoint("later").empty());
}

TEST_F(TrainerTest, ReadsAStepWhileTheNextOneIsComputedUnlessItsResultsAreNeeded) {
  std::vector<std::string> expected;
  const std::vector<int64_t> needed = {5, 7, 10, 12};  // validations, saves, the end
  for (int64_t step = 1; step <= kSteps; ++step) {
    const auto is_needed = [&](int64_t n) {
      return std::find(needed.begin(), needed.end(), n) != needed.end();
    };
    expected.push_back(fmt::format("enter {}", step));
    if (step > 1 && !is_needed(step - 1)) expected.push_back(fmt::format("record {}", step - 1));
    if (is_needed(step)) expected.push_back(fmt::format("record {}", step));
    if (step % 5 == 0 || step == kSteps) expected.push_back(fmt::format("validation {}", step));
    if (step % 7 == 0 || step == kSteps) expected.push_back(fmt::format("save {}", step));
  }
  EXPECT_EQ(train("run", 1).calls, expected);
}

TEST_F(TrainerTest, SkipsTheSameSteps) {
  const Transcript told = same({"--numerics.max_skips_in_a_row=3"}, OtherRank{{1, 4, 5, 9, 12}});
  EXPECT_EQ(told.progress.skipped, 5);
  EXPECT_EQ(told.progress.updates, kSteps - 5);
  EXPECT_EQ(told.progress.skipped_in_a_row, 1);
  ASSERT_EQ(told.steps.size(), static_cast<size_t>(kSteps));
  EXPECT_EQ(told.steps[4].skipped, 3);
  EXPECT_EQ(told.steps[5].skipped, 3);
}

TEST_F(TrainerTest, EndsAtTheSameStepWhenTooManyAreSkipped) {
  const Transcript told = same({"--numerics.max_skips_in_a_row=3"}, OtherRank{{2, 8, 9, 10, 11}});
  EXPECT_THAT(told.error, HasSubstr("Step 10: 3 steps in a row were not finite. The weights are "
                                    "those of step 7;"));
  EXPECT_EQ(told.progress.step, 10);
  EXPECT_EQ(told.steps.back().step, 9);
  EXPECT_NE(run_.checkpoint("later").find("\"step\": 7"), std::string::npos);
}

// No token of step 4 has a target.
TEST_F(TrainerTest, SaysOfMixedSkipsWhatHelpsAgainstEither) {
  std::vector<int32_t> some = tokens();
  std::fill_n(some.begin() + 3 * kBatch * kLength, kBatch * kLength + 1,
              static_cast<int32_t>(model().vocab_size - 1));
  write_flat_shard(run_.root() + "/tokens.bin", some);
  const auto end_of = [&](const OtherRank& other) {
    const Transcript told = same({"--numerics.max_skips_in_a_row=3"}, other);
    EXPECT_EQ(told.code, ExitCode::kNumerics);
    EXPECT_TRUE(told.agreed);
    return told.error;
  };
  for (const int64_t end : {4, 5, 6}) {
    EXPECT_THAT(end_of(OtherRank{{end - 2, end - 1, end}}),
                AllOf(HasSubstr(fmt::format("Step {}: 3 steps in a row were skipped. ", end)),
                      HasSubstr("lower the learning rate"), HasSubstr("train on longer documents")))
        << end;
  }
  // A streak that an update has ended does not count.
  const std::string later = end_of(OtherRank{{6, 7, 8}});
  EXPECT_THAT(later, HasSubstr("Step 8: 3 steps in a row were not finite. "));
  EXPECT_THAT(later, Not(HasSubstr("longer documents")));
}

TEST_F(TrainerTest, EndsAtTheFirstSkipWhereNoneIsAllowed) {
  const Transcript told = same({"--numerics.skip_nonfinite=false"}, OtherRank{{3}});
  EXPECT_THAT(told.error, HasSubstr("Step 3 was not finite. The weights are those of step 2;"));
}

TEST_F(TrainerTest, MovesGammaByTheRatioOfTheStepBefore) {
  same({"--regularizer.kind=target_ratio", "--regularizer.target_ratio=0.25"});
}

TEST_F(TrainerTest, MovesNoGammaWhereNothingIsRouted) {
  for (const std::string mode : {"full", "window"}) {
    const Transcript told =
        train(mode, 0, {"--attention.mode=" + mode, "--regularizer.kind=target_ratio"});
    EXPECT_EQ(told.error, "") << mode;
    EXPECT_EQ(told.progress.gamma, 0.02) << mode;
  }
}

TEST_F(TrainerTest, TellsTheSameWhateverIsComputedTwice) {
  const Transcript once = train("none", 0);
  for (const std::string mode : {"selective", "layer"}) {
    const Transcript twice = train(mode, 0, {"--train.recompute=" + mode});
    EXPECT_EQ(twice.lines, once.lines) << mode;
    EXPECT_EQ(run_.checkpoint(mode), run_.checkpoint("none")) << mode;
  }
}

// The stand-in for CUDA graphs: what was recorded is carried out again (parallel/device_graphs.h).
TEST_F(TrainerTest, TellsTheSameWhenMicroBatchesAreReplayed) {
  for (const bool masks : {false, true}) {
    const std::vector<std::string> overrides = {
        fmt::format("--attention.mask_documents={}", masks)};
    const std::string name = masks ? "documents" : "whole";
    const Transcript launched = train(name, 0, overrides);
    const Transcript told = replay(name + "_replayed", 0, overrides);
    EXPECT_EQ(told.lines, launched.lines) << name;
    EXPECT_EQ(run_.checkpoint(name + "_replayed"), run_.checkpoint(name)) << name;
    // Few have the same documents.
    const int64_t all = kSteps * kBatch - 2;
    EXPECT_TRUE(masks ? told.replays < all / 4 : told.replays == all) << told.replays;
  }
}

// A profile asks of every launch which phase it belongs to, in its steps and in the two before.
TEST_F(TrainerTest, LaunchesTheMicroBatchesOfAProfile) {
  const Transcript told = run_.train(
      "profiled",
      {.overrides = {"--attention.mask_documents=false", "--log.profile={start: 4, steps: 2}"},
       .profile = true,
       .captured = true});
  EXPECT_EQ(told.replays, (kSteps - 4) * kBatch - 2);
}

class StopTest : public TrainerTest, public testing::WithParamInterface<int64_t> {};

// A lag makes a run stop one step later: the step that the device has got is not thrown away.
TEST_P(StopTest, SavesAndGoesOnToTheSameEnd) {
  const std::vector<std::string> whole = train("whole", 0).lines;
  for (const size_t lag : {0, 1}) {
    SCOPED_TRACE(fmt::format("lag {}", lag));
    const std::string name = fmt::format("stopped-{}", lag);
    const int64_t asked = GetParam();
    // The results of these are read before the next step is handed over.
    const bool read_at_once = lag == 0 || asked % 5 == 0 || asked % 7 == 0 || asked == kSteps;
    const int64_t last = read_at_once ? asked : asked + 1;
    Transcript told = train(name, lag, {}, OtherRank{{}, asked});
    EXPECT_EQ(told.progress.step, last);
    EXPECT_EQ(told.outcome, RunOutcome::kStopped);
    EXPECT_EQ(told.calls.back(), fmt::format("save {}", last));
    EXPECT_THAT(run_.checkpoint(name), HasSubstr(fmt::format("\"step\": {}", last)));
    const Transcript rest = train(name, lag);
    EXPECT_EQ(rest.outcome, RunOutcome::kFinished);
    told.lines.insert(told.lines.end(), rest.lines.begin(), rest.lines.end());
    EXPECT_EQ(told.lines, whole);
    EXPECT_EQ(run_.checkpoint(name), run_.checkpoint("whole"));
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, StopTest, testing::Values(1, 4, 5, 6, 7, 11, 12));

// The third question of a validation on two sets of two batches comes when one of them is done.
TEST_F(TrainerTest, LeavesTheRestOfAValidationInWhichItIsAskedToStopToTheNextStart) {
  const std::string set = "path: " + run_.root() + "/tokens.bin, eos_id: 60";
  const std::vector<std::string> sets = {
      fmt::format("--data.validation=[{{name: a, {0}}}, {{name: b, {0}}}]", set),
      "--validation.batches=2"};
  const std::vector<std::string> whole = train("whole", 0, sets).lines;
  for (const int64_t step : {int64_t{5}, kSteps}) {
    for (const size_t lag : {0, 1}) {
      SCOPED_TRACE(fmt::format("in the validation of step {}, lag {}", step, lag));
      const std::string name = fmt::format("stopped-{}-{}", step, lag);
      Transcript told =
          train(name, lag, sets, OtherRank{.stops_in_validation = step, .at_question = 3});
      EXPECT_EQ(told.progress.step, step);
      EXPECT_EQ(told.outcome, RunOutcome::kStopped);
      EXPECT_THAT(last_calls(told, 2),
                  ElementsAre(fmt::format("validation {}", step), fmt::format("save {}", step)));
      const Transcript rest = run_.train(name, {.lag = lag, .overrides = sets, .validated = {"a"}});
      EXPECT_EQ(rest.calls.front(), fmt::format("validation {}", step));
      EXPECT_EQ(rest.outcome, RunOutcome::kFinished);
      told.lines.insert(told.lines.end(), rest.lines.begin(), rest.lines.end());
      EXPECT_EQ(told.lines, whole);
      EXPECT_EQ(run_.checkpoint(name), run_.checkpoint("whole"));
    }
  }
}

TEST_F(TrainerTest, HearsAStopInTheLastBatchOfAValidation) {
  const Transcript told =
      train("run", 0, {}, OtherRank{.stops_in_validation = 5, .at_question = 2});
  EXPECT_EQ(told.progress.step, 5);
  EXPECT_EQ(told.outcome, RunOutcome::kStopped);
  EXPECT_THAT(last_calls(told, 2), ElementsAre("validation 5", "save 5"));
}

TEST_F(TrainerTest, SaysThatAStepInWhoseValidationItWasAskedToStopIsNotSaved) {
  std::filesystem::create_directory(run_.root() + "/run");
  std::ofstream(run_.root() + "/run/checkpoints") << "a file, in the way";
  const Transcript told = train("run", 0, {}, OtherRank{.stops_in_validation = 5});
  EXPECT_EQ(told.code, ExitCode::kCheckpoint);
  EXPECT_TRUE(told.agreed);
  EXPECT_THAT(told.error, HasSubstr("asked to stop at step 5, but its checkpoint could not be"));
}

TEST_F(TrainerTest, TellsTheStepsBeforeOneWhoseDataCannotBeRead) {
  damage_step_9(tokens());
  const Transcript told = same({"--data.validation=[]"});
  EXPECT_THAT(told.error, HasSubstr("outside the model's vocabulary"));
  EXPECT_EQ(told.progress.step, 8);
  EXPECT_EQ(told.steps.back().step, 8);
}

// This rank cannot take part in step 9, in which the others wait for it, when it is told that step
// 8 ends the run: it must neither call them together nor leave in silence.
TEST_F(TrainerTest, LeavesAloneWhereTheStepBeforeOneThatItCannotComputeEndsTheRun) {
  damage_step_9(tokens());
  const Transcript told = end_at_the_first_skip(OtherRank{{8}});
  EXPECT_FALSE(told.agreed);
  EXPECT_EQ(told.code, ExitCode::kNumerics);
  EXPECT_THAT(told.error, AllOf(HasSubstr("outside the model's vocabulary"),
                                HasSubstr(" Besides: Step 8 was not finite.")));
  EXPECT_EQ(told.progress.step, 8);
  EXPECT_FALSE(folder_exists(run_.root() + "/run/profile"));
}

// Alone it has nobody to wait for. Documents of one token leave step 8 without a target.
TEST_F(TrainerTest, SaysBothWhereTheStepBeforeOneThatItCannotComputeEndsTheRun) {
  std::vector<int32_t> some = tokens();
  const auto eos = static_cast<int32_t>(model().vocab_size - 1);
  std::fill_n(some.begin() + 7 * kBatch * kLength, kBatch * kLength, eos);
  damage_step_9(some);
  const Transcript told = end_at_the_first_skip(std::nullopt);
  EXPECT_TRUE(told.agreed);
  EXPECT_EQ(told.code, ExitCode::kNumerics);
  EXPECT_THAT(told.error, AllOf(HasSubstr("outside the model's vocabulary"),
                                HasSubstr(" Besides: Step 8 was skipped.")));
  EXPECT_EQ(told.progress.step, 8);
  EXPECT_TRUE(folder_exists(run_.root() + "/run/profile"));
}

TEST_F(TrainerTest, ProfilesTheStepsAskedForWithALagToo) {
  const Transcript told = run_.train(
      "run", {.lag = 1, .overrides = {"--log.profile={start: 3, steps: 3}"}, .profile = true});
  EXPECT_EQ(told.outcome, RunOutcome::kFinished);
  const std::string path = run_.root() + "/run/profile/kernels.json";
  const Json json = parse_json(read_file(path, ExitCode::kData), path, ExitCode::kData);
  EXPECT_EQ(json.at("first_step"), 3);
  EXPECT_EQ(json.at("steps"), 3);
  // Nothing of other steps falls into the recording: their results are read before and after it.
  const auto at = [&](const std::string& call) {
    return std::find(told.calls.begin(), told.calls.end(), call) - told.calls.begin();
  };
  EXPECT_LT(at("record 2"), at("enter 3"));
  EXPECT_LT(at("record 5"), at("enter 6"));
  EXPECT_GT(at("record 4"), at("enter 5"));
}

// With a lag the device has one step more, which no metrics tell of.
TEST_F(TrainerTest, AProfileOfARunThatEndsForItsNumbersHasTheStepsUntilThen) {
  for (const size_t lag : {0, 1}) {
    const std::string name = fmt::format("run-{}", lag);
    const Transcript told = run_.train(name, {.lag = lag,
                                              .overrides = {"--numerics.max_skips_in_a_row=2",
                                                            "--log.profile={start: 2, steps: 9}"},
                                              .other = OtherRank{{3, 4}},
                                              .profile = true});
    EXPECT_THAT(told.error, HasSubstr("Step 4: 2 steps in a row"));
    const std::string path = run_.root() + "/" + name + "/profile/kernels.json";
    const Json json = parse_json(read_file(path, ExitCode::kData), path, ExitCode::kData);
    EXPECT_EQ(json.at("first_step"), 2);
    EXPECT_EQ(json.at("steps"), lag == 0 ? 3 : 4);
  }
}

TEST_F(TrainerTest, AProfileOfARunThatIsStoppedInsideItIsKeptBesideThatOfTheRest) {
  const std::vector<std::string> overrides = {"--log.profile={start: 3, steps: 4}"};
  run_.train("run", {.overrides = overrides, .other = OtherRank{{}, 4}, .profile = true});
  run_.train("run", {.overrides = overrides, .profile = true});
  const auto first_step = [&](const std::string& folder) {
    const std::string path = run_.root() + "/run/" + folder + "/kernels.json";
    return parse_json(read_file(path, ExitCode::kData), path, ExitCode::kData).at("first_step");
  };
  EXPECT_EQ(first_step("profile.superseded"), 3);
  EXPECT_EQ(first_step("profile"), 5);
}

TEST_F(TrainerTest, StepsShareTheTimeOfTheRun) {
  for (const size_t lag : {0, 1}) {
    const auto start = std::chrono::steady_clock::now();
    const Transcript told = train(fmt::format("run-{}", lag), lag, {"--validation.every=100"});
    const double whole =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double sum = 0.0;
    for (const StepMetrics& step : told.steps) {
      EXPECT_GT(step.step_seconds, 0.0);
      EXPECT_NEAR(step.tokens_per_second * step.step_seconds, kBatch * kLength, 1e-6);
      sum += step.step_seconds;
    }
    EXPECT_LT(sum, whole);
  }
}

TEST_F(TrainerTest, TellsTheMemoryByKindAfterTheSecondStep) {
  for (const size_t lag : {0, 1}) {
    const Transcript told = train(fmt::format("run-{}", lag), lag);
    EXPECT_THAT(told.told, ElementsAre(AllOf(HasSubstr("weights"), HasSubstr("gradients"),
                                             HasSubstr("moments"), HasSubstr("activations"))));
  }
}

// A token and layer in float32, by hand: stream 96, route, logit and disagreement 9; two outputs of
// 192 and a log-sum-exp of 24; q, k, v 320, three rows of 96, two of 4, gate and up 320.
TEST_F(TrainerTest, ADryRunCountsTheActivationsOfEveryMode) {
  const RunConfig config =
      read_run_config(run_.root() + "/run.yaml",
                      {"--model.init_from=" + run_.root() + "/base", "--data.sequence_length=1K",
                       "--data.validation=[]", "--train.recompute=selective"});
  const ModelConfig model_config = starting_model_config(config);
  const auto kept = [&](Recompute recompute) {
    return kept_activations(recompute, model_config, model_options(config, model_config),
                            compute_type(config), 1024);
  };
  EXPECT_EQ(kept(Recompute::kLayer), 3 * 1024 * 105);
  EXPECT_EQ(kept(Recompute::kSelective), 3 * 1024 * (105 + 384 + 24));
  EXPECT_EQ(kept(Recompute::kNone), 3 * 1024 * (105 + 384 + 24 + 320 + 288 + 8 + 320));
  // Before the last layer and in it, with gradients of 24 + 40 floats; or behind all layers, with
  // the stream, its norm and the gradient of that, and 61 logits twice.
  const auto peak = [&](Recompute recompute) {
    return peak_activations(recompute, model_config, model_options(config, model_config),
                            compute_type(config), 1024);
  };
  EXPECT_EQ(peak(Recompute::kLayer), 1024 * (2 * 105 + 1449 + 256));
  EXPECT_EQ(peak(Recompute::kNone), 1024 * (3 * 1449 + 3 * 96 + 2 * 61 * 4));
  const std::vector<DryRunFact> facts = dry_run(config, {}, "cpu", 1);
  const nlohmann::ordered_json json = dry_run_json(config, facts)["dry_run"];
  EXPECT_EQ(json["activations"]["selective"], kept(Recompute::kSelective));
  EXPECT_EQ(json["peak"]["layer"].get<int64_t>() - json["peak"]["none"].get<int64_t>(),
            peak(Recompute::kLayer) - peak(Recompute::kNone));
  EXPECT_EQ(json["start"]["step"], 0);
  const std::string text = dry_run_text(config, facts);
  EXPECT_THAT(text, HasSubstr("#   activations kept by the layers for the backward of a "
                              "micro-batch: 1.5 MiB (train.recompute none: 4.2 MiB, selective: "
                              "1.5 MiB, layer: 0.3 MiB)\n"));
  const FlatParameters parameters(parameter_table(model_config, has_router(config)), {},
                                  compute_type(config), c10::kMeta,
                                  FlatParameters::Purpose::kTraining, moment_type(config));
  const auto with_all = [&](Recompute recompute) {
    return describe_bytes(memory_use(parameters).total() + peak(recompute));
  };
  EXPECT_THAT(text, HasSubstr(fmt::format(
                        "#   peak        of a step, without the workspace of libraries and the "
                        "batch: {0} (train.recompute none: {1}, selective: {0}, layer: {2})\n",
                        with_all(Recompute::kSelective), with_all(Recompute::kNone),
                        with_all(Recompute::kLayer))));
  EXPECT_THAT(text, HasSubstr("#   computes    1 rank on CPU, "));
  EXPECT_THAT(text, HasSubstr("attention: library (blockwise); deterministic\n"));
  EXPECT_THAT(text, Not(HasSubstr("#   warning")));
}

// The table of docs/architecture.md, without its 19.6 GiB of parameters, gradients and moments. The
// first is at the head, the others in the FFN.
TEST(PeakActivationsTest, AreThoseOfThePapersModel) {
  ModelConfig model = small_config(Architecture::kLlama);
  model.vocab_size = 32000;
  model.hidden_size = 2048;
  model.intermediate_size = 5632;
  model.layers = 22;
  model.heads = 16;
  model.kv_heads = 8;
  model.head_dim = 128;
  const CausalLmOptions options = model_options(RunConfig(), model);
  const auto gib = [&](Recompute recompute, int64_t tokens) {
    return static_cast<double>(peak_activations(recompute, model, options, at::kBFloat16, tokens)) /
           (1 << 30);
  };
  EXPECT_NEAR(gib(Recompute::kNone, 32768), 57.9 - 19.6, 0.1);
  EXPECT_NEAR(gib(Recompute::kSelective, 32768), 29.7 - 19.6, 0.1);
  EXPECT_NEAR(gib(Recompute::kLayer, 32768), 24.4 - 19.6, 0.1);
  EXPECT_NEAR(gib(Recompute::kLayer, 262144), 57.9 - 19.6, 0.1);
}

TEST_F(TrainerTest, ADryRunRefusesAndWarnsAsTheRunWould) {
  const auto dry = [&](const std::vector<std::string>& overrides) {
    std::vector<std::string> all = {"--model.init_from=" + run_.root() + "/base"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    try {
      const RunConfig config = read_run_config(run_.root() + "/run.yaml", all);
      return dry_run_text(config, dry_run(config, {}, "cpu", 1));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfiguration);
      return std::string(error.what());
    }
  };
  EXPECT_EQ(dry({"--attention.backend=fused"}),
            "attention.backend: 'fused' needs a GPU and model.compute: bfloat16; use auto, library "
            "or reference.");
  EXPECT_THAT(dry({"--run.folder=" + run_.root() + "/tokens.bin"}),
              HasSubstr("tokens.bin' cannot be used"));
  EXPECT_THAT(dry({"--attention.far_sampling={enabled: true}"}),
              HasSubstr("#   warning     attention.far_sampling saves no time"));
  EXPECT_THAT(dry({"--attention.window=32"}),
              HasSubstr("#   warning     attention.window (32) is not below data.sequence_length "
                        "(32)"));
  EXPECT_THAT(dry({"--attention.window=31"}), Not(HasSubstr("#   warning")));
  EXPECT_THAT(dry({"--attention.window=32", "--attention.mode=window"}),
              Not(HasSubstr("#   warning")));
  EXPECT_FALSE(folder_exists(run_.root() + "/run"));
}

TEST_F(TrainerTest, KeepsOlderCheckpointsWhileStepsAreSkipped) {
  const std::vector<std::string> often = {"--checkpoint.every=2", "--checkpoint.keep_last=1",
                                          "--numerics.max_skips_in_a_row=6"};
  const auto saved = [&](const std::string& name) {
    return list_folder(run_.root() + "/" + name + "/checkpoints", ExitCode::kCheckpoint);
  };
  const Transcript lost = train("lost", 0, often, OtherRank{{3, 4, 5, 6, 7, 8}});
  EXPECT_THAT(lost.error, HasSubstr("Step 8: 6 steps in a row"));
  EXPECT_THAT(saved("lost"),
              ElementsAre("LATEST", "step-00000002", "step-00000004", "step-00000006"));
  const Transcript found = train("found", 0, often, OtherRank{{3, 4, 5, 6}});
  EXPECT_EQ(found.error, "");
  EXPECT_THAT(saved("found"), ElementsAre("LATEST", "step-00000012"));
}

// Every document is one token long: no token has a target in its own.
class WithoutTargetsTest : public TrainerFixture {
 protected:
  WithoutTargetsTest()
      : TrainerFixture(small_config(Architecture::kLlama), {.compute = "float32", .window = 8},
                       kLength, std::vector<int32_t>(3000, 60), at::kCPU) {}
};

TEST_F(WithoutTargetsTest, StepsAreSkippedAndSayWhy) {
  const Transcript told = same({"--numerics.max_skips_in_a_row=8"});
  EXPECT_THAT(told.error, HasSubstr("Step 8: 8 steps in a row were skipped. The weights are those "
                                    "of step 0; train on longer documents"));
  EXPECT_EQ(told.progress.updates, 0);
  EXPECT_EQ(told.progress.skipped, 8);
  EXPECT_TRUE(std::isnan(told.steps.at(0).loss));
  EXPECT_EQ(told.steps.at(0).targets, 0);
  EXPECT_THAT(told.lines,
              Contains("Step 1: no token of this step has a target in its own document; the step "
                       "is skipped on all ranks."));
  EXPECT_THAT(told.lines, Contains(AllOf(HasSubstr("\"validation\""), HasSubstr("\"nll\":null"),
                                         HasSubstr("\"perplexity\":null"))));
  EXPECT_EQ(train("whole", 0, {"--attention.mask_documents=false"}).progress.updates, kSteps);
}

}  // namespace
}  // namespace swiattn
