// CUDA graphs of micro-batches: the same bits as launches one by one, in every kind of attention.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "captured_steps.h"
#include "deterministic_gpu.h"
#include "gpu_model.h"
#include "handing_backend.h"

namespace swiattn {
namespace {

using A = LayerAttention;

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
  return cut_steps(kSteps, c.micro_batches, c.length, c.longest);
}

TrainedSteps train(const Case& c, const std::vector<MicroBatches>& steps, bool captured) {
  Model model(config_of(c), c);
  return train_steps(model.model, model.parameters, steps, captured, /*evaluates=*/true);
}

void expect_replays(const TrainedSteps& found, const Case& c) {
  EXPECT_THAT(found.warnings, testing::IsEmpty());
  const bool repeats = c.longest == 0 || Model(config_of(c), c).model.follows_positions();
  const int64_t launched = c.micro_batches == 1 ? 1 : 2;
  EXPECT_EQ(found.replays, repeats ? kSteps * c.micro_batches - launched : 0);
}

class DeterministicTest : public testing::Test {
 protected:
  const DeterministicGpu deterministic_;
  const c10::InferenceMode no_autograd_;
};

class GpuCapturedTrainingTest : public DeterministicTest,
                                public testing::WithParamInterface<Case> {};

TEST_P(GpuCapturedTrainingTest, GivesTheSameBits) {
  const Case& c = GetParam();
  const std::vector<MicroBatches> steps = steps_of(c);
  const TrainedSteps expected = train(c, steps, false);
  expect_same_bits(train(c, steps, false), expected);  // what is compared repeats itself at all
  const TrainedSteps found = train(c, steps, true);
  expect_same_bits(found, expected);
  expect_replays(found, c);
}

INSTANTIATE_TEST_SUITE_P(All, GpuCapturedTrainingTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

class GpuCapturedAtomicsTest : public testing::TestWithParam<Case> {
 protected:
  const c10::InferenceMode no_autograd_;
};

// Without determinism some gradients are added up by atomics, in another order every time: sums in
// float32 differ by some 2^-24 of their terms, and elements of attention's gradient in bfloat16 now
// and then by their last bit. From the next step on the roundings of all activations differ then.
// On a CPU, with the last bit of one in 50 of these elements changed at random, such models have
// gradients that differ by up to 3 % in ten steps, and NLLs by 0.5 %. What has to be noticed is
// larger: operands of another micro-batch change the NLLs by 23 % and gradients by more than half
// their size, and so does a gradient that is added where it should replace.
TEST_P(GpuCapturedAtomicsTest, GivesTheSameNumbers) {
  constexpr double kTolerance = 0.1;
  const Case& c = GetParam();
  const std::vector<MicroBatches> steps = steps_of(c);
  const TrainedSteps found = train(c, steps, true);
  expect_close(found, train(c, steps, false), kTolerance);
  expect_replays(found, c);
}

INSTANTIATE_TEST_SUITE_P(All, GpuCapturedAtomicsTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

// A wait for the device, as it may come with another version of a library.
class WaitingBackend final : public HandingBackend {
 public:
  WaitingBackend() : HandingBackend(make_attention_backend("fused", kGpu, at::kBFloat16)) {}

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    EXPECT_TRUE(qkv.select(0, 0).isfinite().all().item<bool>());
    return HandingBackend::forward(band, qkv, layout, shape);
  }
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
  expect_given_up(found, "");
}

class GpuCapturedTrainingUseTest : public DeterministicTest {};

// Documents of all lengths share a recording on Hopper: one where any token has far keys, and one
// where none has. A kind is launched once before it is recorded, so that as many micro-batches are
// not replayed as there are recordings.
TEST_F(GpuCapturedTrainingUseTest, DocumentsOfAllLengthsShareARecording) {
  if (at::cuda::getCurrentDeviceProperties()->major != 9) {
    GTEST_SKIP() << "only the kernel of both branches on Hopper follows positions";
  }
  const std::vector<int64_t> longest = {700, 0, kWindow, 300, 1000, 50, 200, kWindow / 2, 500, 0};
  std::vector<MicroBatches> steps;
  std::set<std::vector<int32_t>> cuts;
  int64_t without_far_keys = 0;
  for (size_t i = 0; i < longest.size(); ++i) {
    steps.push_back({cut_tokens(2, kLength, longest[i], i)});
    const std::vector<int32_t>& starts = steps.back().front().starts;
    cuts.insert(starts);
    if (make_document_layout(starts, kWindow, at::kCPU).far_longest == 0) ++without_far_keys;
  }
  ASSERT_EQ(cuts.size(), longest.size() - 1);
  ASSERT_EQ(without_far_keys, 3);
  for (const int64_t head_dim : {64, 128}) {
    const Case c{.name = "", .head_dim = head_dim};
    EXPECT_TRUE(Model(config_of(c), c).model.follows_positions());
    const TrainedSteps found = train(c, steps, true);
    expect_same_bits(found, train(c, steps, false));
    EXPECT_EQ(found.replays, static_cast<int64_t>(steps.size()) - 2) << "two recordings";
  }
}

// Memory of recordings goes with them, and is shared between them.
TEST_F(GpuCapturedTrainingUseTest, ManyModelsBehindEachOtherTrain) {
  const Case c{.name = "", .micro_batches = 3};
  const std::vector<MicroBatches> steps = steps_of(c);
  const TrainedSteps expected = train(c, steps, false);
  for (int i = 0; i < 40; ++i) expect_same_bits(train(c, steps, true), expected);
}

}  // namespace
}  // namespace swiattn
