// CUDA graphs of micro-batches: the same bits as launches one by one, in every kind of attention.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "captured_steps.h"
#include "gpu_model.h"

namespace swiattn {
namespace {

using A = LayerAttention;
using ::testing::HasSubstr;

constexpr int64_t kSteps = 10;
constexpr int64_t kLength = 1024;
constexpr int64_t kWindow = 128;

struct Case {
  std::string name;
  std::vector<A> attention = std::vector<A>(3, A::kSwitch);
  Architecture architecture = Architecture::kLlama;
  int64_t head_dim = 64;
  Gate gate = {};
  std::string backend = "fused";
  int64_t micro_batches = 2;
  int64_t longest = 0;  // document
  int64_t length = kLength;

  bool with_router() const { return attention[0] == A::kSwitch && gate.has_router(); }
};

std::vector<Case> cases() {
  const std::vector<A> full(3, A::kFull), window(3, A::kWindow),
      mixed = {A::kWindow, A::kFull, A::kWindow};
  const Gate random{GateKind::kRandom, 0.3, 7}, top_k{GateKind::kTopK, 0.2, 0},
      sampled{GateKind::kLearned, 0.0, 7, FarSampling{0.1, 2.0}};
  return {
      {"switch_64"},
      {.name = "switch_128", .architecture = Architecture::kQwen3, .head_dim = 128},
      {.name = "switch_biases", .architecture = Architecture::kQwen2, .micro_batches = 1},
      {.name = "switch_untied", .architecture = Architecture::kMistral, .micro_batches = 3},
      {.name = "switch_odd_length", .length = 1019},
      // A head width that our attention kernels do not cover.
      {.name = "switch_32", .head_dim = 32},
      {.name = "switch_documents", .longest = 700},
      {.name = "switch_nothing_far", .longest = 100},
      {.name = "switch_library", .backend = "library"},
      {.name = "switch_reference", .backend = "reference", .longest = 700},
      {.name = "random_gate", .gate = random},
      {.name = "top_k_gate", .gate = top_k},
      {.name = "sampled", .gate = sampled},
      {.name = "sampled_documents", .gate = sampled, .longest = 700},
      {.name = "full", .attention = full},
      {.name = "full_qwen3", .attention = full, .architecture = Architecture::kQwen3},
      {.name = "full_odd_length", .attention = full, .length = 1019},
      {.name = "full_documents", .attention = full, .longest = 700},
      {.name = "window", .attention = window, .head_dim = 128},
      {.name = "window_documents", .attention = window, .longest = 700},
      {.name = "static_", .attention = mixed},
  };
}

ModelConfig config_of(const Case& c, int64_t layers = 3, int64_t hidden_size = 256) {
  ModelConfig config = gpu_model_config(c.architecture, hidden_size, c.head_dim);
  config.layers = layers;
  return config;
}

struct Model : GpuModel {
  Model(const ModelConfig& config, const Case& c)
      : Model(config, c, make_attention_backend(c.backend, kGpu, at::kBFloat16)) {}
  Model(const ModelConfig& config, const Case& c, std::unique_ptr<AttentionBackend> backend)
      : GpuModel(
            config,
            {c.attention, kWindow, c.gate, gpu_model_objective(c.with_router()), Recompute::kNone},
            c.with_router(), std::move(backend)) {}
};

std::vector<MicroBatches> steps_of(const Case& c) {
  std::vector<MicroBatches> all(kSteps);
  uint64_t seed = 1;
  for (MicroBatches& step : all) {
    for (int64_t i = 0; i < c.micro_batches; ++i) {
      step.push_back(cut_tokens(2, c.length, c.longest, seed += 10));
    }
  }
  return all;
}

class DeterministicTest : public testing::Test {
 protected:
  DeterministicTest() {
    at::globalContext().setDeterministicAlgorithms(true, false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~DeterministicTest() override { at::globalContext().setDeterministicAlgorithms(false, false); }

  const c10::InferenceMode no_autograd_;
};

class GpuCapturedTrainingTest : public DeterministicTest,
                                public testing::WithParamInterface<Case> {};

TEST_P(GpuCapturedTrainingTest, GivesTheSameBits) {
  const Case& c = GetParam();
  const std::vector<MicroBatches> steps = steps_of(c);
  bool follows_positions = false;
  const auto train = [&](bool captured) {
    Model model(config_of(c), c);
    follows_positions = model.model.follows_positions();
    return train_steps(model.model, model.parameters, steps, captured, /*evaluates=*/true);
  };
  const TrainedSteps expected = train(false);
  expect_same_bits(train(false), expected);  // what is compared repeats itself at all
  const TrainedSteps found = train(true);
  expect_same_bits(found, expected);
  EXPECT_THAT(found.warnings, testing::IsEmpty());
  const bool repeats = c.longest == 0 || follows_positions;
  const int64_t launched = c.micro_batches == 1 ? 1 : 2;
  EXPECT_EQ(found.replays, repeats ? kSteps * c.micro_batches - launched : 0);
}

INSTANTIATE_TEST_SUITE_P(All, GpuCapturedTrainingTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

// A wait for the device, as it may come with another version of a library.
class WaitingBackend final : public AttentionBackend {
 public:
  const char* name() const override { return "waiting"; }
  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    EXPECT_TRUE(qkv.select(0, 0).isfinite().all().item<bool>());
    return backend_->forward(band, qkv, layout, shape);
  }
  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientMode mode) const override {
    backend_->backward(band, grad_out, qkv, final, rows, layout, shape, grad_qkv, mode);
  }

 private:
  std::unique_ptr<AttentionBackend> backend_ = make_attention_backend("fused", kGpu, at::kBFloat16);
};

class GpuCapturedTrainingFailureTest : public DeterministicTest {};

TEST_F(GpuCapturedTrainingFailureTest, IsToldOnceAndChangesNothing) {
  const Case c{"", std::vector<A>(3, A::kWindow)};
  const std::vector<MicroBatches> steps = steps_of(c);
  const auto train = [&](bool captured) {
    Model model(config_of(c), c, std::make_unique<WaitingBackend>());
    return train_steps(model.model, model.parameters, steps, captured);
  };
  const TrainedSteps found = train(true);
  expect_same_bits(found, train(false));
  EXPECT_EQ(found.replays, 0);
  ASSERT_EQ(found.warnings.size(), 1U);
  EXPECT_THAT(found.warnings[0], HasSubstr("CUDA graphs are not used"));
}

class GpuCapturedTrainingUseTest : public DeterministicTest {};

// Memory of recordings goes with them, and is shared between them.
TEST_F(GpuCapturedTrainingUseTest, ManyModelsBehindEachOtherTrain) {
  const Case c{.name = "", .micro_batches = 3};
  const std::vector<MicroBatches> steps = steps_of(c);
  const auto train = [&](bool captured) {
    Model model(config_of(c), c);
    return train_steps(model.model, model.parameters, steps, captured);
  };
  const TrainedSteps expected = train(false);
  for (int i = 0; i < 40; ++i) expect_same_bits(train(true), expected);
}

// Of a model whose launches take longer than its kernels.
TEST_F(GpuCapturedTrainingUseTest, PrintsItsTimes) {
  Case c{.name = "", .attention = std::vector<A>(24, A::kSwitch)};
  Model model(config_of(c, 24), c);
  CapturedTraining training(model.model, model.parameters,
                            [](const std::string& why) { ADD_FAILURE() << why; });
  const MicroBatch batch = model.model.prepare(cut_tokens(1, kLength, 0, 5).packed());
  const auto milliseconds = [&](bool captured) {
    for (int i = 0; i < 3; ++i) captured ? training.train(batch) : model.model.train(batch);
    synchronize(kGpu);
    const auto begin = std::chrono::steady_clock::now();
    constexpr int kRounds = 20;
    for (int i = 0; i < kRounds; ++i) captured ? training.train(batch) : model.model.train(batch);
    synchronize(kGpu);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    return 1e3 * seconds.count() / kRounds;
  };
  const double launched = milliseconds(false), replayed = milliseconds(true);
  fmt::print("24 layers of width 256, {} tokens: {:.2f} ms launched, {:.2f} ms replayed\n", kLength,
             launched, replayed);
  EXPECT_GT(training.replays(), 0);
}

}  // namespace
}  // namespace swiattn
