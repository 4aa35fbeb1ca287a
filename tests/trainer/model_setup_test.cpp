// What a run chooses from its configuration, its model and its device.
#include "trainer/model_setup.h"

#include <ATen/Context.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "../model/small_models.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;

TEST(ReplaysTrainingTest, OfSmallMicroBatchesInBfloat16OnAGpu) {
  const c10::Device gpu(c10::kCUDA, 0);
  const auto replays = [&](const std::function<void(RunConfig&, ModelConfig&)>& change,
                           c10::Device device) {
    RunConfig config;
    config.data.sequence_length = 8192;
    ModelConfig model = small_config(Architecture::kLlama);
    model.hidden_size = 576;
    change(config, model);
    return replays_training(config, model, device);
  };
  const auto nothing = [](RunConfig&, ModelConfig&) {};
  EXPECT_TRUE(replays(nothing, gpu));
  EXPECT_FALSE(replays(nothing, c10::kCPU));
  EXPECT_FALSE(replays([](RunConfig& c, ModelConfig&) { c.train.micro_batch = 8; }, gpu));
  EXPECT_FALSE(replays([](RunConfig&, ModelConfig& m) { m.hidden_size = 4096; }, gpu));
  EXPECT_FALSE(replays(
      [](RunConfig& c, ModelConfig&) { c.model.compute = ModelSection::Compute::kFloat32; }, gpu));
  EXPECT_FALSE(replays(
      [](RunConfig& c, ModelConfig&) { c.train.recompute = TrainSection::Recompute::kLayer; },
      gpu));
  EXPECT_FALSE(
      replays([](RunConfig& c,
                 ModelConfig&) { c.regularizer.kind = RegularizerSection::Kind::kTargetRatio; },
              gpu));
}

TEST(IsDeterministicTest, WhereItIsAskedForOrCheapAndChangesNothingHere) {
  using Choice = NumericsSection::Deterministic;
  using Mode = AttentionSection::Mode;
  struct Case {
    Choice choice = Choice::kAuto;
    c10::Device device{c10::kCUDA, 0};
    Mode mode = Mode::kSwitch;
    int64_t length = 32768;
    int64_t window = 1024;
    int64_t head_dim = 128;
    bool hopper = true;
    bool expected = true;
  };
  const c10::Device cpu(c10::kCPU);
  const std::vector<Case> cases = {
      {},
      {.head_dim = 64, .hopper = false},
      {.mode = Mode::kWindow},
      {.mode = Mode::kWindow, .window = 32768, .expected = false},
      {.mode = Mode::kWindow, .length = 4096, .window = 32768},
      {.mode = Mode::kWindow, .head_dim = 64},
      {.mode = Mode::kWindow, .head_dim = 96, .expected = false},
      {.mode = Mode::kWindow, .hopper = false, .expected = false},
      {.mode = Mode::kFull, .expected = false},
      {.mode = Mode::kFull, .length = 4096},
      {.mode = Mode::kFull, .length = 4096, .head_dim = 64},
      {.mode = Mode::kFull, .length = 4096, .hopper = false, .expected = false},
      {.head_dim = 96, .expected = false},
      {.choice = Choice::kFalse, .expected = false},
      {.choice = Choice::kTrue, .mode = Mode::kFull, .head_dim = 96},
      {.device = cpu, .mode = Mode::kFull, .head_dim = 96},
      {.choice = Choice::kFalse, .device = cpu, .expected = false},
  };
  const bool before = at::globalContext().deterministicAlgorithms();
  for (size_t i = 0; i < cases.size(); ++i) {
    RunConfig config;
    config.numerics.deterministic = cases[i].choice;
    config.attention.mode = cases[i].mode;
    config.data.sequence_length = cases[i].length;
    config.attention.window = cases[i].window;
    ModelConfig model = small_config(Architecture::kLlama);
    model.head_dim = cases[i].head_dim;
    EXPECT_EQ(is_deterministic(config, model, cases[i].device, cases[i].hopper), cases[i].expected)
        << i;
    EXPECT_EQ(at::globalContext().deterministicAlgorithms(), before) << i;
  }
}

TEST(FarSamplingWarningTest, TellsWhatKeepsItFromSavingTime) {
  using Backend = AttentionSection::Backend;
  struct Case {
    int64_t head_dim = 128;
    c10::Device device{c10::kCUDA, 0};
    ModelSection::Compute compute = ModelSection::Compute::kBfloat16;
    Backend backend = Backend::kAuto;
    std::vector<std::string> words;  // of the warning; none: nothing is told
  };
  const std::vector<Case> cases = {
      {},
      {.head_dim = 64, .backend = Backend::kFused},
      {.device = c10::kCPU, .words = {"no time on a CPU:", "train on a GPU"}},
      {.compute = ModelSection::Compute::kFloat32, .words = {"in float32:", "model.compute"}},
      {.backend = Backend::kLibrary, .words = {"with this attention.backend:", "to auto"}},
      {.backend = Backend::kReference, .words = {"with this attention.backend:", "to auto"}},
      {.head_dim = 96, .words = {"with heads of 96 (there are kernels for 64 and 128):"}},
      {.head_dim = 8, .device = c10::kCPU, .words = {"with heads of 8"}},
  };
  for (const Case& c : cases) {
    RunConfig config;
    config.model.compute = c.compute;
    config.attention.backend = c.backend;
    ModelConfig model = small_config(Architecture::kLlama);
    model.head_dim = c.head_dim;
    EXPECT_FALSE(far_sampling_warning(config, model, c.device)) << "nothing is sampled";
    config.attention.far_sampling.enabled = true;
    const std::string warning = far_sampling_warning(config, model, c.device).value_or("");
    EXPECT_EQ(warning.empty(), c.words.empty()) << warning;
    for (const std::string& word : c.words) EXPECT_THAT(warning, HasSubstr(word));
    if (warning.empty()) continue;
    EXPECT_THAT(warning, HasSubstr("set attention.far_sampling to {enabled: false}."));
  }
}

}  // namespace
}  // namespace swiattn
