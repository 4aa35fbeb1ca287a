// Recomputation decides when a layer's tensors exist and changes nothing else: the same bits in
// every mode, attention computed as often as promised, and no more kept than promised.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>

#include "judge.h"
#include "layer_memory.h"
#include "loss/regularizer.h"
#include "model/causal_lm.h"
#include "small_models.h"

namespace swiattn {
namespace {

using A = LayerAttention;

constexpr int64_t kSequences = 2;
constexpr int64_t kLength = 19;
constexpr int64_t kTokens = kSequences * kLength;
constexpr int64_t kWindow = 5;
constexpr std::array kTypes = {at::kDouble, at::kFloat, at::kBFloat16};

struct Case {
  std::string name;
  Architecture architecture = Architecture::kLlama;
  std::vector<A> attention = std::vector<A>(3, A::kSwitch);
  Gate gate;
  RegularizerKind regularizer = RegularizerKind::kAdaptive;
  bool detach_gamma = true;
  std::vector<int64_t> documents;
  std::string backend = "reference";

  bool with_router() const { return attention[0] == A::kSwitch && gate.has_router(); }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto architecture :
       {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2, Architecture::kQwen3}) {
    all.push_back({.name = to_string(architecture), .architecture = architecture});
  }
  all.push_back({.name = "documents", .documents = {9, 1, 4, 17, 2}});
  all.push_back({.name = "attached", .detach_gamma = false});
  all.push_back({.name = "attached_constant",
                 .regularizer = RegularizerKind::kConstant,
                 .detach_gamma = false,
                 .documents = {9, 1, 4}});
  all.push_back({.name = "full", .attention = {A::kFull, A::kFull, A::kFull}});
  all.push_back({.name = "full_qwen3",
                 .architecture = Architecture::kQwen3,
                 .attention = {A::kFull, A::kFull, A::kFull}});
  all.push_back({.name = "window", .attention = {A::kWindow, A::kWindow, A::kWindow}});
  all.push_back({.name = "static_", .attention = {A::kWindow, A::kFull, A::kWindow}});
  all.push_back({.name = "random_gate",
                 .gate = {GateKind::kRandom, 0.3, 99},
                 .regularizer = RegularizerKind::kNone});
  all.push_back({.name = "top_k_gate", .gate = {GateKind::kTopK, 0.2, 0}, .documents = {13, 3}});
  all.push_back({.name = "sampled",
                 .gate = {GateKind::kLearned, 0.0, 7, FarSampling{0.1, 2.0}},
                 .documents = {13, 3}});
  const size_t count = all.size();
  for (size_t i = 0; i < count; ++i) {
    Case c = all[i];
    if (!c.detach_gamma) continue;  // the reference's alone
    c.name += "_blockwise";
    c.backend = "library";
    all.push_back(c);
  }
  return all;
}

// Counts what it hands on.
class CountingBackend final : public AttentionBackend {
 public:
  struct Counts {
    int64_t forward = 0, backward = 0;
  };

  CountingBackend(std::unique_ptr<AttentionBackend> backend, Counts& counts)
      : backend_(std::move(backend)), counts_(counts) {}

  const char* name() const override { return "counting"; }

  Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                   const AttentionShape& shape) const override {
    ++counts_.forward;
    return backend_->forward(band, qkv, layout, shape);
  }

  void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv, const Attended& final,
                const at::Tensor& rows, const DocumentLayout& layout, const AttentionShape& shape,
                const at::Tensor& grad_qkv, GradientSum sum) const override {
    ++counts_.backward;
    backend_->backward(band, grad_out, qkv, final, rows, layout, shape, grad_qkv, sum);
  }

 private:
  std::unique_ptr<AttentionBackend> backend_;
  Counts& counts_;
};

// What two micro-batches leave behind.
struct Outcome {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  CountingBackend::Counts counts;
};

Outcome train(const Case& c, at::ScalarType type, Recompute recompute) {
  const ModelConfig config = small_config(c.architecture);
  FlatParameters parameters(parameter_table(config, c.with_router()), {}, type, at::kCPU,
                            FlatParameters::Purpose::kTraining);
  load(parameters, random_weights(config, c.with_router(), 3));
  Outcome outcome;
  const Objective objective{gamma_coefficients({c.regularizer, 0.3, 0.1, 100.0}),
                            DisagreementReduction::kMean, c.detach_gamma};
  CausalLm model(config, {c.attention, kWindow, c.gate, objective, recompute}, parameters,
                 reference_operations(),
                 std::make_unique<CountingBackend>(
                     make_attention_backend(c.backend, at::kCPU, type), outcome.counts));
  for (const uint64_t seed : {5, 6}) {
    const judge::Tokens tokens =
        judge::random_tokens(kSequences, kLength, config.vocab_size, seed, c.documents);
    const MicroBatchResult result = model.train(model.prepare(tokens.packed()));
    outcome.tensors.emplace_back("NLL", result.nll);
    outcome.tensors.emplace_back("statistics", result.statistics);
  }
  for (const FlatUnit& unit : parameters.units()) {
    outcome.tensors.emplace_back(unit.name, unit.gradient);
  }
  return outcome;
}

class RecomputeTest : public testing::TestWithParam<Case> {};

TEST_P(RecomputeTest, GivesTheSameBits) {
  for (const at::ScalarType type : kTypes) {
    const Outcome expected = train(GetParam(), type, Recompute::kNone);
    for (const Recompute recompute : {Recompute::kSelective, Recompute::kLayer}) {
      const Outcome found = train(GetParam(), type, recompute);
      ASSERT_EQ(found.tensors.size(), expected.tensors.size());
      for (size_t i = 0; i < found.tensors.size(); ++i) {
        const auto& [name, tensor] = found.tensors[i];
        EXPECT_TRUE(at::equal(tensor, expected.tensors[i].second))
            << name << ", " << c10::toString(type) << ", mode " << static_cast<int>(recompute);
      }
    }
  }
}

TEST_P(RecomputeTest, ComputesAttentionTwiceInModeLayerOnly) {
  int64_t once = 0;  // near and far of a layer that chooses
  for (const A attention : GetParam().attention) once += attention == A::kSwitch ? 2 : 1;
  // An attached gamma's backward asks for both branches' log-sum-exps once more, in every mode.
  const bool attached =
      !GetParam().detach_gamma && GetParam().regularizer != RegularizerKind::kConstant;
  const int64_t again = attached ? once : 0;
  const auto counts = [&](Recompute recompute) {
    return train(GetParam(), at::kDouble, recompute).counts;
  };
  const auto none = counts(Recompute::kNone), selective = counts(Recompute::kSelective),
             layer = counts(Recompute::kLayer);
  EXPECT_EQ(none.forward, 2 * (once + again));  // two micro-batches
  EXPECT_EQ(selective.forward, none.forward);
  EXPECT_EQ(layer.forward, none.forward + 2 * once);
  EXPECT_EQ(selective.backward, none.backward);
  EXPECT_EQ(layer.backward, none.backward);
}

TEST_P(RecomputeTest, KeepsTheBytesThatAreToldAndComputesTheRestAgain) {
  const Case& c = GetParam();
  const ModelConfig config = small_config(c.architecture);
  const Objective objective;
  const judge::Tokens tokens =
      judge::random_tokens(kSequences, kLength, config.vocab_size, 5, c.documents);
  for (const at::ScalarType type : kTypes) {
    FlatParameters parameters(parameter_table(config, c.with_router()), {}, type, at::kCPU,
                              FlatParameters::Purpose::kTraining);
    load(parameters, random_weights(config, c.with_router(), 3));
    MicroBatchMaker maker(rotary_frequencies(config), kWindow, type, at::kCPU);
    const MicroBatch batch = maker.make(tokens.packed());
    const auto backend = make_attention_backend(c.backend, at::kCPU, type);
    const DecoderLayer layer(config, 0, c.attention[0], kWindow, c.gate, objective,
                             parameters.unit("layer.0"), reference_operations(), *backend);
    at::manual_seed(1);
    const at::Tensor in = at::randn({kTokens, config.hidden_size}, type);
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kLayer}) {
      LayerSaved saved;
      layer.forward(in, batch, c.gate.far_sampling ? Branches::kSampled : Branches::kBoth, saved);
      const std::vector<at::Tensor> whole = saved_tensors(saved);
      saved.drop(recompute);
      EXPECT_EQ(held_bytes(saved),
                kTokens * kept_bytes_per_token(recompute, config, c.attention[0], c.gate, type))
          << c10::toString(type) << ", mode " << static_cast<int>(recompute);
      if (recompute == Recompute::kNone) continue;
      layer.recompute(batch, saved);
      const std::vector<at::Tensor> again = saved_tensors(saved);
      for (size_t i = 0; i < whole.size(); ++i) {
        ASSERT_EQ(again[i].defined(), whole[i].defined()) << "tensor " << i;
        if (whole[i].defined()) {
          EXPECT_TRUE(at::equal(again[i], whole[i])) << "tensor " << i;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, RecomputeTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

// A layer of the paper's shape in bfloat16, counted by hand: d 2048, Hq 16, Hkv 8, D 128, F 5632.
TEST(KeptBytesTest, OfThePapersShape) {
  ModelConfig config;
  config.hidden_size = 2048;
  config.intermediate_size = 5632;
  config.heads = 16;
  config.kv_heads = 8;
  config.head_dim = 128;
  const auto bytes = [&](Recompute recompute, A attention) {
    return kept_bytes_per_token(recompute, config, attention, Gate{}, at::kBFloat16);
  };
  EXPECT_EQ(bytes(Recompute::kLayer, A::kFull), 4096);                // the stream
  EXPECT_EQ(bytes(Recompute::kLayer, A::kSwitch), 4096 + 4 + 4 + 1);  // s, disagreement, route
  // Two outputs and a log-sum-exp of 16 heads; one of each.
  EXPECT_EQ(bytes(Recompute::kSelective, A::kSwitch), 4105 + 2 * 4096 + 64);
  EXPECT_EQ(bytes(Recompute::kSelective, A::kWindow), 4096 + 4096 + 64);
  // h, qkv, the second norm's stream and rows, two times 1 / rms, gate and up.
  const int64_t rest = 4096 + 8192 + 4096 + 4096 + 8 + 22528;
  EXPECT_EQ(bytes(Recompute::kNone, A::kSwitch), bytes(Recompute::kSelective, A::kSwitch) + rest);
  EXPECT_EQ(bytes(Recompute::kNone, A::kFull), bytes(Recompute::kSelective, A::kFull) + rest);
}

}  // namespace
}  // namespace swiattn
