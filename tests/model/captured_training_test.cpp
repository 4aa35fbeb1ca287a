// Which micro-batches are recorded and which replayed, and that it changes nothing. On a CPU a
// replay carries the recorded work out again, on the operands that were copied for it.
#include "model/captured_training.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <utility>

#include "captured_steps.h"
#include "handing_backend.h"
#include "loss/regularizer.h"
#include "small_models.h"

namespace swiattn {
namespace {

using A = LayerAttention;

constexpr int64_t kWindow = 5;
constexpr int64_t kLength = 24;

MicroBatch batch_of(const std::vector<int32_t>& starts) {
  MicroBatch batch;
  batch.sequences = 1;
  batch.sequence_length = starts.back();
  batch.layout = make_document_layout(starts, kWindow, at::kCPU);
  return batch;
}

TEST(MicroBatchKindTest, IsWhatDecidesWhichLaunchesAreMade) {
  const std::vector<bool> stale = {true, false};
  const auto kind = [&](const std::vector<int32_t>& starts, bool follows_positions) {
    return micro_batch_kind(batch_of(starts), follows_positions, stale);
  };
  EXPECT_EQ(kind({0, 9, 24}, true), kind({0, 3, 11, 24}, true));
  EXPECT_NE(kind({0, 9, 24}, true), kind({0, 4, 8, 12, 16, 20, 24}, true)) << "nothing is far";
  EXPECT_NE(kind({0, 9, 24}, true), kind({0, 9, 23}, true)) << "another length";
  EXPECT_EQ(kind({0, 9, 24}, false), kind({0, 9, 24}, false));
  EXPECT_NE(kind({0, 9, 24}, false), kind({0, 8, 24}, false));
  EXPECT_NE(kind({0, 24}, false), micro_batch_kind(batch_of({0, 24}), false, {false, false}))
      << "whether gradients are replaced";
  MicroBatch two = batch_of({0, 12, 24});
  const MicroBatchKind one = micro_batch_kind(two, true, stale);
  two.sequences = 2;
  two.sequence_length = 12;
  EXPECT_NE(micro_batch_kind(two, true, stale), one);
}

TEST(LaunchBoundTest, IsTrueOfSmallModelsAndFewTokens) {
  EXPECT_TRUE(is_bound_by_launches(8192, 576));
  EXPECT_TRUE(is_bound_by_launches(32768, 576));
  EXPECT_TRUE(is_bound_by_launches(8192, 2048));
  EXPECT_FALSE(is_bound_by_launches(16384, 2048));
  EXPECT_FALSE(is_bound_by_launches(int64_t{1} << 20, 64));
  EXPECT_FALSE(is_bound_by_launches(int64_t{1} << 32, 4096));
}

struct Model {
  Model(std::vector<A> attention, std::unique_ptr<AttentionBackend> backend, Gate gate = {})
      : parameters(parameter_table(config(), attention[0] == A::kSwitch && gate.has_router()), {},
                   at::kFloat, at::kCPU, FlatParameters::Purpose::kTraining),
        model(config(), {attention, kWindow, gate, objective(gate), Recompute::kNone}, parameters,
              reference_operations(), std::move(backend)) {
    load(parameters, random_weights(config(), attention[0] == A::kSwitch && gate.has_router(), 3));
  }

  static ModelConfig config() { return small_config(Architecture::kLlama); }
  static Objective objective(const Gate& gate) {
    const auto kind = gate.has_router() ? RegularizerKind::kAdaptive : RegularizerKind::kNone;
    return {gamma_coefficients({kind, 0.3, 0.1, 100.0}), DisagreementReduction::kMean, true};
  }

  FlatParameters parameters;
  CausalLm model;
};

struct Case {
  std::string name;
  std::vector<A> attention = std::vector<A>(3, A::kSwitch);
  std::string backend = "reference";
  Gate gate;
  int64_t micro_batches = 1;
  int64_t longest = 0;   // document
  int64_t launched = 1;  // micro-batches, of kSteps steps
};

constexpr int64_t kSteps = 5;

std::vector<Case> cases() {
  const std::vector<A> full(3, A::kFull), mixed = {A::kWindow, A::kFull, A::kWindow};
  const Gate sampled{GateKind::kLearned, 0.0, 7, FarSampling{0.1, 2.0}};
  return {
      {"one_micro_batch"},
      // The first of a step, and the others.
      {.name = "two_micro_batches", .micro_batches = 2, .launched = 2},
      {.name = "three_micro_batches", .micro_batches = 3, .launched = 2},
      {.name = "documents_by_position", .micro_batches = 2, .longest = 20, .launched = 2},
      {.name = "nothing_far", .longest = 4},
      {.name = "other_documents", .backend = "library", .longest = 20, .launched = kSteps},
      {.name = "no_documents", .backend = "library"},
      {.name = "full", .attention = full, .micro_batches = 2, .launched = 2},
      {.name = "full_documents", .attention = full, .longest = 20, .launched = kSteps},
      {.name = "static_", .attention = mixed, .backend = "library"},
      {.name = "random_gate", .gate = {GateKind::kRandom, 0.3, 99}, .longest = 20},
      {.name = "sampled", .gate = sampled},
      {.name = "sampled_documents", .gate = sampled, .longest = 20, .launched = kSteps},
  };
}

class CapturedTrainingTest : public testing::TestWithParam<Case> {};

TEST_P(CapturedTrainingTest, TrainsAsWithoutRecordings) {
  const Case& c = GetParam();
  const std::vector<MicroBatches> steps = cut_steps(kSteps, c.micro_batches, kLength, c.longest);
  const auto train = [&](bool captured) {
    Model model(c.attention, make_attention_backend(c.backend, at::kCPU, at::kFloat), c.gate);
    return train_steps(model.model, model.parameters, steps, captured, /*evaluates=*/true);
  };
  const TrainedSteps found = train(true);
  expect_same_bits(found, train(false));
  EXPECT_EQ(found.replays, kSteps * c.micro_batches - c.launched);
  EXPECT_TRUE(found.warnings.empty());
}

INSTANTIATE_TEST_SUITE_P(All, CapturedTrainingTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(CapturedTrainingKindsTest, LaunchesKindsBeyondTheFirstFewAndRecordsThoseThatRepeat) {
  std::vector<MicroBatches> steps;
  for (int round = 0; round < 3; ++round) {
    for (uint64_t seed = 1; seed <= 12; ++seed) steps.push_back({cut_tokens(2, kLength, 9, seed)});
  }
  const auto train = [&](bool captured) {
    Model model(std::vector<A>(3, A::kFull),
                make_attention_backend("library", at::kCPU, at::kFloat));
    return train_steps(model.model, model.parameters, steps, captured);
  };
  const TrainedSteps found = train(true);
  expect_same_bits(found, train(false));
  EXPECT_EQ(found.replays, 8 + 8);
}

// Fails when it is asked for the second time.
class FailingBackend final : public HandingBackend {
 public:
  explicit FailingBackend(bool fails) : HandingBackend(make_reference_backend()), fails_(fails) {}

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    if (fails_ && ++calls_ == 4) throw std::runtime_error("no second step");
    return HandingBackend::forward(band, qkv, layout, shape);
  }

 private:
  bool fails_;
  mutable int calls_ = 0;
};

TEST(CapturedTrainingFailureTest, IsToldOnceAndChangesNothing) {
  const std::vector<MicroBatches> steps = cut_steps(4, 1, kLength, 0);
  const auto train = [&](bool captured) {
    Model model(std::vector<A>(3, A::kFull), std::make_unique<FailingBackend>(captured));
    return train_steps(model.model, model.parameters, steps, captured);
  };
  const TrainedSteps found = train(true);
  expect_same_bits(found, train(false));
  expect_given_up(found, "no second step");
}

}  // namespace
}  // namespace swiattn
