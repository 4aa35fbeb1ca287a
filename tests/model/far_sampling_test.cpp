// Sampled far rows on whole models: over many draws the mean of what is estimated is what both
// branches of every token give, and what is not estimated is the same in every draw.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "judge.h"
#include "loss/regularizer.h"
#include "model/causal_lm.h"
#include "small_models.h"

namespace swiattn {
namespace {

using S = RoutingStatistics;

constexpr int64_t kWindow = 5;
constexpr int64_t kEstimated[] = {S::kDisagreement, S::kGamma, S::kRegularizer};

// What a micro-batch gave.
struct Step {
  at::Tensor nll;         // [T]
  at::Tensor statistics;  // [layers, S::kColumns]
  std::map<std::string, at::Tensor> gradients;
};

class FarSamplingTest : public testing::Test {
 protected:
  FarSamplingTest()
      : config_(small_config(Architecture::kLlama)),
        weights_(random_weights(config_, true, 3)),
        tokens_(judge::random_tokens(2, 48, config_.vocab_size, 5, {40, 9, 1, 30})) {}

  template <class Use>
  auto with_model(const Gate& gate, const std::string& backend, at::ScalarType type,
                  Recompute recompute, const Use& use) const {
    FlatParameters parameters(parameter_table(config_, gate.has_router()), {}, type, at::kCPU,
                              FlatParameters::Purpose::kTraining);
    load(parameters, weights_);
    const Objective objective{gamma_coefficients({RegularizerKind::kAdaptive, 0.3, 0.1, 100.0})};
    CausalLm model(config_,
                   {std::vector<LayerAttention>(3, LayerAttention::kSwitch), kWindow, gate,
                    gate.has_router() ? objective : Objective{}, recompute},
                   parameters, reference_operations(),
                   make_attention_backend(backend, at::kCPU, type));
    return use(model, parameters);
  }

  Step train(const Gate& gate, const std::string& backend = "reference",
             at::ScalarType type = at::kDouble, Recompute recompute = Recompute::kNone) const {
    const auto step = [&](CausalLm& model, FlatParameters& parameters) {
      const MicroBatchResult result = model.train(model.prepare(tokens_.packed()));
      Step found{result.nll, result.statistics, {}};
      for (const FlatUnit& unit : parameters.units()) {
        for (const Segment& segment : unit.segments) {
          found.gradients[segment.spec.name] =
              unit.gradient.narrow(0, segment.offset, segment.spec.numel()).clone();
        }
      }
      return found;
    };
    return with_model(gate, backend, type, recompute, step);
  }

  static Gate learned(std::optional<FarSampling> sampling, uint64_t seed = 0) {
    return {GateKind::kLearned, 0.0, seed, sampling};
  }

  static void expect_equal_columns(const at::Tensor& found, const at::Tensor& expected,
                                   bool with_estimates) {
    at::Tensor a = found.clone(), b = expected.clone();
    for (const int64_t column : kEstimated) {
      if (with_estimates) break;
      a.select(1, column).zero_();
      b.select(1, column).zero_();
    }
    EXPECT_TRUE(at::equal(a, b));
  }

  ModelConfig config_;
  std::map<std::string, at::Tensor> weights_;
  judge::Tokens tokens_;
};

// Sums over draws, element by element.
class Draws {
 public:
  void add(const at::Tensor& value) {
    sum_ = sum_.defined() ? sum_ + value : value;
    square_ = square_.defined() ? square_ + value.square() : value.square();
    ++count_;
  }
  // How many of its standard errors the mean of the draws is away from `exact`, at most. Where all
  // draws are alike they have to be exact but for rounding.
  double deviation(const at::Tensor& exact) const {
    const at::Tensor mean = sum_ / count_;
    const at::Tensor error = (variance(mean) / count_).sqrt() + 1e-9 * exact.abs().max();
    return ((mean - exact).abs() / (error + 1e-300)).max().item<double>();
  }
  // The variance of one draw, summed over elements.
  double variance() const { return variance(sum_ / count_).sum().item<double>(); }

 private:
  at::Tensor variance(const at::Tensor& mean) const {
    return (square_ / count_ - mean.square()).clamp_min(0) * (count_ / (count_ - 1));
  }
  at::Tensor sum_, square_;
  double count_ = 0;
};

TEST_F(FarSamplingTest, TheMeanOverDrawsIsWhatBothBranchesGive) {
  constexpr int kDraws = 600;
  constexpr double kDeviations = 5.5;  // of some 10,000 elements, most of them correlated
  const Step exact = train(learned({}));
  std::map<std::string, Draws> gradients;
  Draws routers, estimated[std::size(kEstimated)];
  const auto all_routers = [&](const Step& step) {
    return at::cat({step.gradients.at(router_name(0)), step.gradients.at(router_name(1)),
                    step.gradients.at(router_name(2))});
  };
  for (uint64_t seed = 1; seed <= kDraws; ++seed) {
    const Step step = train(learned(FarSampling{}, seed));
    // What is not estimated is exact in every draw: the loss, and the gradient of all that lies
    // behind the last router.
    ASSERT_TRUE(at::equal(step.nll, exact.nll));
    expect_equal_columns(step.statistics, exact.statistics, /*with_estimates=*/false);
    for (const char* name :
         {"model.norm.weight", "model.layers.2.mlp.down_proj.weight",
          "model.layers.2.mlp.up_proj.weight", "model.layers.2.self_attn.o_proj.weight",
          "model.layers.2.self_attn.q_proj.weight", "model.layers.2.self_attn.v_proj.weight"}) {
      ASSERT_TRUE(at::equal(step.gradients.at(name), exact.gradients.at(name))) << name;
    }
    for (const auto& [name, gradient] : step.gradients) gradients[name].add(gradient);
    routers.add(all_routers(step));
    for (size_t i = 0; i < std::size(kEstimated); ++i) {
      estimated[i].add(step.statistics.select(1, kEstimated[i]));
    }
  }
  for (const auto& [name, draws] : gradients) {
    EXPECT_LT(draws.deviation(exact.gradients.at(name)), kDeviations) << name;
  }
  for (size_t i = 0; i < std::size(kEstimated); ++i) {
    EXPECT_LT(estimated[i].deviation(exact.statistics.select(1, kEstimated[i])), kDeviations)
        << "column " << kEstimated[i];
  }
  // The more is drawn the less is left to chance.
  std::map<double, double> noise = {{FarSampling{}.scale, routers.variance()}};
  for (const double scale : {1.0, 2.0}) {
    Draws draws;
    for (uint64_t seed = 1; seed <= 50; ++seed) {
      draws.add(all_routers(train(learned(FarSampling{FarSampling{}.minimum, scale}, seed))));
    }
    noise[scale] = draws.variance();
  }
  EXPECT_GT(noise.at(FarSampling{}.scale), noise.at(1.0));
  EXPECT_GT(noise.at(1.0), noise.at(2.0));
  EXPECT_GT(noise.at(2.0), 0.0);

  // Not judged: how much that is beside what other tokens change.
  Draws data;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    tokens_ = judge::random_tokens(2, 48, config_.vocab_size, 100 + seed, {40, 9, 1, 30});
    data.add(all_routers(train(learned({}))));
  }
  for (const auto& [scale, variance] : noise) {
    fmt::print("scale {}: the routers' gradient varies over draws {:.2f} times as over data\n",
               scale, variance / data.variance());
  }
}

TEST_F(FarSamplingTest, DrawingEveryTokenGivesTheBitsOfBothBranches) {
  for (const std::string backend : {"reference", "library"}) {
    for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const Step exact = train(learned({}), backend, type);
      const Step step = train(learned(FarSampling{1.0, 0.0}, 3), backend, type);
      EXPECT_TRUE(at::equal(step.nll, exact.nll));
      expect_equal_columns(step.statistics, exact.statistics, /*with_estimates=*/true);
      for (const auto& [name, gradient] : step.gradients) {
        EXPECT_TRUE(at::equal(gradient, exact.gradients.at(name))) << name;
      }
    }
  }
}

TEST_F(FarSamplingTest, ARecomputationDrawsNothingAnew) {
  for (const at::ScalarType type : {at::kDouble, at::kBFloat16}) {
    const Gate gate = learned(FarSampling{}, 3);
    const Step kept = train(gate, "library", type);
    for (const Recompute recompute : {Recompute::kSelective, Recompute::kLayer}) {
      const Step again = train(gate, "library", type, recompute);
      EXPECT_TRUE(at::equal(again.nll, kept.nll));
      EXPECT_TRUE(at::equal(again.statistics, kept.statistics));
      for (const auto& [name, gradient] : again.gradients) {
        EXPECT_TRUE(at::equal(gradient, kept.gradients.at(name))) << name;
      }
    }
  }
}

TEST_F(FarSamplingTest, ARandomGateEstimatesItsDisagreementAlone) {
  constexpr int kDraws = 80;
  Gate gate{GateKind::kRandom, 0.3, 1, {}};
  // The seed draws the gate too, so the mean is that over gates on both sides.
  Draws differences;
  for (uint64_t seed = 1; seed <= kDraws; ++seed) {
    gate.seed = seed;
    gate.far_sampling.reset();
    const Step exact = train(gate);
    gate.far_sampling = FarSampling{};
    const Step step = train(gate);
    ASSERT_TRUE(at::equal(step.nll, exact.nll));
    expect_equal_columns(step.statistics, exact.statistics, /*with_estimates=*/false);
    for (const auto& [name, gradient] : step.gradients) {
      ASSERT_TRUE(at::equal(gradient, exact.gradients.at(name))) << name;
    }
    differences.add((step.statistics - exact.statistics).select(1, S::kDisagreement));
  }
  EXPECT_LT(differences.deviation(at::zeros({3}, at::kDouble)), 5.0);
}

TEST_F(FarSamplingTest, AnEvaluationSeesBothBranchesOfAll) {
  const auto evaluate = [&](const Gate& gate) {
    const auto run = [&](CausalLm& model, FlatParameters&) {
      return model.evaluate(model.prepare(tokens_.packed()), Branches::kBoth);
    };
    return with_model(gate, "library", at::kFloat, Recompute::kNone, run);
  };
  const MicroBatchResult exact = evaluate(learned({}));
  const MicroBatchResult found = evaluate(learned(FarSampling{}));
  EXPECT_TRUE(at::equal(found.nll, exact.nll));
  EXPECT_TRUE(at::equal(found.statistics, exact.statistics));
}

}  // namespace
}  // namespace swiattn
