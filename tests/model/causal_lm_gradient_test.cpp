// The explicit forward and backward against autograd in float64: every architecture, mode, gate,
// regularizer, with and without documents, both backends.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <limits>

#include "judge.h"
#include "loss/regularizer.h"
#include "model/causal_lm.h"
#include "small_models.h"

namespace swiattn {
namespace {

struct Case {
  std::string name;
  Architecture architecture = Architecture::kLlama;
  std::vector<LayerAttention> attention = std::vector<LayerAttention>(3, LayerAttention::kSwitch);
  Gate gate;
  judge::Regularizer regularizer;
  std::vector<int64_t> documents;
  std::string backend = "reference";
  int64_t window = 5;
  int64_t kv_heads = 2;
};

RegularizerKind kind_named(const std::string& name) {
  if (name == "adaptive") return RegularizerKind::kAdaptive;
  if (name == "constant") return RegularizerKind::kConstant;
  if (name == "no_nll") return RegularizerKind::kNoNll;
  if (name == "no_disagreement") return RegularizerKind::kNoDisagreement;
  return RegularizerKind::kNone;
}

Objective objective_of(const judge::Regularizer& r) {
  return {gamma_coefficients({kind_named(r.kind), r.gamma, r.eps, r.alpha}),
          r.mean ? DisagreementReduction::kMean : DisagreementReduction::kSum, r.detach};
}

std::vector<Case> cases() {
  using A = LayerAttention;
  std::vector<Case> all;
  for (const auto architecture :
       {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2, Architecture::kQwen3}) {
    all.push_back({.name = to_string(architecture), .architecture = architecture});
  }
  all.push_back({.name = "one_kv_head", .architecture = Architecture::kQwen3, .kv_heads = 1});
  for (const std::string kind : {"adaptive", "constant", "no_nll", "no_disagreement", "none"}) {
    Case c{.name = kind + "_documents", .documents = {9, 1, 4, 17, 2}};
    c.regularizer.kind = kind;
    c.regularizer.gamma = 0.3;  // large, so that its gradient is not hidden behind the loss's
    all.push_back(c);
    if (kind == "none") continue;
    c.name = kind + "_attached";
    c.regularizer.detach = false;
    all.push_back(c);
    c.name = kind + "_attached_sum";
    c.regularizer.mean = false;
    all.push_back(c);
  }
  all.push_back({.name = "full", .attention = {A::kFull, A::kFull, A::kFull}});
  all.push_back({.name = "window", .attention = {A::kWindow, A::kWindow, A::kWindow}});
  all.push_back(
      {.name = "static_", .attention = {A::kWindow, A::kFull, A::kWindow}, .documents = {11, 6}});
  all.push_back({.name = "random_gate", .gate = {GateKind::kRandom, 0.3, 99}});
  all.push_back({.name = "top_k_gate", .gate = {GateKind::kTopK, 0.2, 0}, .documents = {13, 3}});
  for (const std::string kind : {"adaptive", "constant", "none"}) {
    Case c{.name = kind + "_sampled", .gate = {GateKind::kLearned, 0.0, 7, FarSampling{0.1, 2.0}}};
    c.documents = {9, 1, 4, 17, 2};
    c.regularizer.kind = kind;
    c.regularizer.gamma = 0.3;
    all.push_back(c);
  }
  all.push_back(
      {.name = "random_gate_sampled", .gate = {GateKind::kRandom, 0.3, 7, FarSampling()}});
  all.push_back({.name = "top_k_gate_sampled", .gate = {GateKind::kTopK, 0.2, 7, FarSampling()}});
  for (const int64_t window : {1, 2, 18, 19, 20}) {
    all.push_back({.name = fmt::format("window_{}", window), .window = window});
  }
  const size_t count = all.size();
  for (size_t i = 0; i < count; ++i) {
    if (!all[i].regularizer.detach) continue;  // the reference's alone
    Case c = all[i];
    c.name += "_blockwise";
    c.backend = "library";
    all.push_back(c);
  }
  return all;
}

class GradientTest : public testing::TestWithParam<Case> {};

TEST_P(GradientTest, ExplicitBackwardEqualsAutogradInFloat64) {
  const Case& c = GetParam();
  ModelConfig config = small_config(c.architecture);
  config.kv_heads = c.kv_heads;
  const bool with_router = c.attention[0] == LayerAttention::kSwitch && c.gate.has_router();
  const auto weights = random_weights(config, with_router, 3);
  const judge::Tokens tokens = judge::random_tokens(2, 19, config.vocab_size, 5, c.documents);

  FlatParameters parameters(parameter_table(config, with_router), {}, at::kDouble, at::kCPU,
                            FlatParameters::Purpose::kTraining);
  load(parameters, weights);
  CausalLm model(config, {c.attention, c.window, c.gate, objective_of(c.regularizer)}, parameters,
                 reference_operations(), make_attention_backend(c.backend, at::kCPU, at::kDouble));
  const MicroBatch batch = model.prepare(tokens.packed());
  const MicroBatchResult result = model.train(batch);

  auto leaves = weights;
  for (auto& [name, tensor] : leaves) tensor = tensor.clone().requires_grad_(true);
  const judge::Verdict verdict =
      judge::evaluate(config, c.attention, c.window, c.gate, c.regularizer, leaves, tokens);
  (verdict.loss_sum + verdict.regularizer_sum).backward();

  EXPECT_LT((result.nll - verdict.nll).abs().max().item<double>(), 1e-10);
  using S = RoutingStatistics;
  const double regularizer = result.statistics.select(1, S::kRegularizer).sum().item<double>() /
                             static_cast<double>(config.layers);
  EXPECT_NEAR(regularizer, verdict.regularizer_sum.item<double>(), 1e-10);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    EXPECT_EQ(result.statistics[layer][S::kFull].item<double>(),
              verdict.routes[static_cast<size_t>(layer)].sum().item<double>());
  }
  for (const FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      const at::Tensor expected = leaves.at(segment.spec.name).grad();
      const at::Tensor found =
          unit.gradient.narrow(0, segment.offset, segment.spec.numel()).view(segment.spec.shape);
      ASSERT_TRUE(expected.defined()) << segment.spec.name;
      const double scale = std::max(1e-3, expected.abs().max().item<double>());
      EXPECT_LT((found - expected).abs().max().item<double>() / scale, 1e-9) << segment.spec.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GradientTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

struct StepCase {
  std::string name;
  Architecture architecture = Architecture::kLlama;
  std::vector<LayerAttention> attention = std::vector<LayerAttention>(3, LayerAttention::kSwitch);
  std::vector<std::string> frozen;
};

std::vector<StepCase> step_cases() {
  using A = LayerAttention;
  const std::string layer = "model.layers.1.";
  return {{"tied"},
          {"untied", Architecture::kMistral},
          {"biases", Architecture::kQwen2},
          {"qk_norms", Architecture::kQwen3},
          // The routers of the other two layers get no gradient.
          {"idle_routers", Architecture::kLlama, {A::kFull, A::kSwitch, A::kWindow}},
          {"frozen",
           Architecture::kMistral,
           {A::kSwitch, A::kSwitch, A::kSwitch},
           {layer + "self_attn.k_proj.weight", layer + "mlp.down_proj.weight",
            layer + "self_attn.router.weight", "model.embed_tokens.weight", "model.norm.weight"}}};
}

class StepGradientTest : public testing::TestWithParam<StepCase> {};

// Two micro-batches, over buffers full of NaN, against the same two added to zeros.
TEST_P(StepGradientTest, AStepReplacesTheGradientsOfTheOneBefore) {
  const StepCase& c = GetParam();
  const ModelConfig config = small_config(c.architecture);
  const auto weights = random_weights(config, true, 3);
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const auto make = [&] {
      FlatParameters parameters(parameter_table(config, true), c.frozen, type, at::kCPU,
                                FlatParameters::Purpose::kTraining);
      load(parameters, weights);
      return parameters;
    };
    const auto backward = [&](FlatParameters& parameters) {
      CausalLm model(config, {c.attention, 5, {}, objective_of({})}, parameters,
                     reference_operations(), make_reference_backend());
      for (const uint64_t seed : {5, 6}) {
        const judge::Tokens tokens = judge::random_tokens(2, 19, config.vocab_size, seed);
        model.train(model.prepare(tokens.packed()));
      }
    };
    FlatParameters expected = make(), found = make();
    backward(expected);
    for (FlatUnit& unit : found.units()) {
      for (const FlatGroup& group : unit.groups) {
        const at::Tensor gradient = unit.group_gradient(group.name);
        if (gradient.defined()) gradient.fill_(std::numeric_limits<double>::quiet_NaN());
      }
    }
    found.start_gradients();
    backward(found);
    found.finish_gradients();
    expected.finish_gradients();  // frozen members
    for (size_t u = 0; u < found.units().size(); ++u) {
      EXPECT_TRUE(at::equal(found.units()[u].gradient, expected.units()[u].gradient))
          << found.units()[u].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, StepGradientTest, testing::ValuesIn(step_cases()),
                         [](const auto& info) { return info.param.name; });

// Numerical derivatives of the objective with the routes held fixed cannot see the straight-through
// gradient, but they see the regularizer's and everything else's: with windows at least as long as
// the sequence the branches agree, and the whole gradient is the true one.
TEST(NumericalGradientTest, RouterAndRegularizerGradientsEqualDifferences) {
  const ModelConfig config = small_config(Architecture::kLlama);
  judge::Regularizer regularizer{.kind = "constant", .gamma = 0.5};
  const int64_t window = 40;
  auto weights = random_weights(config, true, 11);
  const judge::Tokens tokens = judge::random_tokens(1, 12, config.vocab_size, 2);
  const std::vector<LayerAttention> attention(3, LayerAttention::kSwitch);

  const auto objective = [&](const std::map<std::string, at::Tensor>& at_weights,
                             at::Tensor* grad) {
    FlatParameters parameters(parameter_table(config, true), {}, at::kDouble, at::kCPU,
                              FlatParameters::Purpose::kTraining);
    load(parameters, at_weights);
    CausalLm model(config, {attention, window, {}, objective_of(regularizer)}, parameters,
                   reference_operations(), make_reference_backend());
    const MicroBatchResult result = model.train(model.prepare(tokens.packed()));
    if (grad != nullptr)
      *grad = parameters.unit("layer.1").group_gradient("router").flatten().clone();
    return result.nll.sum().item<double>() +
           result.statistics.select(1, RoutingStatistics::kRegularizer).sum().item<double>() / 3.0;
  };
  at::Tensor analytic;
  objective(weights, &analytic);
  EXPECT_GT(analytic.abs().max().item<double>(), 1e-3);
  const std::string name = router_name(1);
  for (const int64_t i : {0, 7, 23}) {
    constexpr double kStep = 1e-5;
    auto moved = weights;
    moved[name] = weights[name].clone();
    moved[name][0][i] += kStep;
    const double above = objective(moved, nullptr);
    moved[name][0][i] -= 2 * kStep;
    const double below = objective(moved, nullptr);
    EXPECT_NEAR((above - below) / (2 * kStep), analytic[i].item<double>(), 1e-7);
  }
}

}  // namespace
}  // namespace swiattn
