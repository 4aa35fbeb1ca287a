#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

namespace swiattn {
namespace {

std::vector<ParameterUnit> units() {
  return {{"unit",
           {{"m", {{"matrix", {5, 9}, ParameterRole::kMatrix}}},
            {"n", {{"norm", {9}, ParameterRole::kNorm}}},
            {"b", {{"bias", {5}, ParameterRole::kBias}}},
            {"r", {{"router", {1, 9}, ParameterRole::kRouter}}}}}};
}

constexpr AdamWSettings kSettings{0.9, 0.95, 1e-8, 0.1, 3.0};

at::Tensor scalar(double value) { return at::scalar_tensor(value, at::kDouble); }

FlatParameters make(const std::vector<std::string>& frozen = {}, at::ScalarType type = at::kFloat) {
  FlatParameters parameters(units(), frozen, type, at::kCPU, FlatParameters::Purpose::kTraining);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const Segment& segment : parameters.units()[0].segments) {
    at::Tensor view = parameters.units()[0].master_view(segment).flatten();
    for (int64_t i = 0; i < view.numel(); ++i) view[i] = normal(random);
  }
  parameters.refresh_compute_copies();
  return parameters;
}

// The contract's formula in float64, element by element.
struct Judge {
  double p, m = 0.0, v = 0.0;
  void update(double g, double lr, double decay, int n) {
    m = 0.9 * m + 0.1 * g;
    v = 0.95 * v + 0.05 * g * g;
    const double m_hat = m / (1 - std::pow(0.9, n)), v_hat = v / (1 - std::pow(0.95, n));
    p -= lr * (m_hat / (std::sqrt(v_hat) + 1e-8) + decay * p);
  }
};

TEST(AdamWTest, FollowsTheFormulaWithDecayOnMatricesOnlyAndTheRoutersOwnRate) {
  FlatParameters parameters = make();
  FlatUnit& unit = parameters.units()[0];
  const at::Tensor start = unit.master.clone();
  AdamW optimizer(kSettings, parameters);
  std::map<int64_t, Judge> judges;
  for (int64_t i = 0; i < unit.numel; ++i) judges[i].p = start[i].item<double>();
  for (int n = 1; n <= 10; ++n) {
    for (const Segment& segment : unit.segments) {
      const bool router = segment.spec.role == ParameterRole::kRouter;
      const bool matrix = segment.spec.role == ParameterRole::kMatrix;
      for (int64_t i = segment.offset; i < segment.offset + segment.spec.numel(); ++i) {
        const float gradient = std::sin(float(i) * 0.37F + float(n));
        unit.gradient[i] = gradient;
        judges[i].update(0.5 * double(gradient), router ? 3e-3 : 1e-3, matrix ? 0.1 : 0.0, n);
      }
    }
    optimizer.step(1e-3, scalar(0.5), scalar(1.0));
  }
  EXPECT_EQ(optimizer.updates().item<int64_t>(), 10);
  for (const Segment& segment : unit.segments) {
    for (int64_t i = segment.offset; i < segment.offset + segment.spec.numel(); ++i) {
      EXPECT_NEAR(unit.master[i].item<double>(), judges[i].p, 1e-6) << segment.spec.name;
      EXPECT_NE(unit.master[i].item<double>(), start[i].item<double>()) << segment.spec.name;
    }
  }
}

TEST(AdamWTest, ASkippedStepChangesNeitherWeightsNorMomentsNorTheCount) {
  FlatParameters parameters = make();
  FlatUnit& unit = parameters.units()[0];
  AdamW optimizer(kSettings, parameters);
  unit.gradient.fill_(0.1);
  optimizer.step(1e-3, scalar(1.0), scalar(1.0));
  const at::Tensor master = unit.master.clone(), m = unit.moment1.clone(), v = unit.moment2.clone();
  unit.gradient.fill_(std::numeric_limits<double>::quiet_NaN());
  optimizer.step(1e-3, scalar(1.0), scalar(0.0));
  EXPECT_TRUE(unit.master.equal(master));
  EXPECT_TRUE(unit.moment1.equal(m));
  EXPECT_TRUE(unit.moment2.equal(v));
  EXPECT_EQ(optimizer.updates().item<int64_t>(), 1);
}

TEST(AdamWTest, FrozenTensorsStayWhateverTheirGradient) {
  FlatParameters parameters = make({"norm", "router"});
  FlatUnit& unit = parameters.units()[0];
  const at::Tensor norm = unit.master_view(unit.segment("norm")).clone();
  const at::Tensor matrix = unit.master_view(unit.segment("matrix")).clone();
  EXPECT_FALSE(unit.group_gradient("n").defined());
  AdamW optimizer(kSettings, parameters);
  unit.gradient.fill_(0.1);
  optimizer.step(1e-3, scalar(1.0), scalar(1.0));
  EXPECT_TRUE(unit.master_view(unit.segment("norm")).equal(norm));
  EXPECT_FALSE(unit.master_view(unit.segment("matrix")).equal(matrix));
}

// Constant gradients, so that every element's second moment is 1 - beta2^n: each update moves it by
// less than half a step of bfloat16, from a quarter on, where rounding to nearest would leave it.
TEST(AdamWTest, MomentsInBfloat16GrowByLessThanTheirStep) {
  constexpr int64_t kCount = 4096, kUpdates = 2000;
  FlatParameters parameters({{"unit", {{"n", {{"norm", {kCount}, ParameterRole::kNorm}}}}}}, {},
                            at::kFloat, at::kCPU, FlatParameters::Purpose::kTraining,
                            at::kBFloat16);
  FlatUnit& unit = parameters.units()[0];
  EXPECT_EQ(unit.moment1.scalar_type(), at::kBFloat16);
  EXPECT_EQ(unit.moment2.scalar_type(), at::kBFloat16);
  unit.gradient.fill_(1.0);
  AdamWSettings settings = kSettings;
  settings.beta2 = 0.999;
  AdamW optimizer(settings, parameters);
  for (int64_t n = 0; n < kUpdates; ++n) optimizer.step(1e-3, scalar(1.0), scalar(1.0));
  // The noise of a mean of 4096 is some 0.0005.
  EXPECT_NEAR(unit.moment2.to(at::kDouble).mean().item<double>(), 1 - std::pow(0.999, kUpdates),
              0.005);
  EXPECT_NEAR(unit.moment1.to(at::kDouble).mean().item<double>(), 1.0, 0.002);
  // The draws of elements are their own.
  EXPECT_GT(unit.moment2.to(at::kDouble).std().item<double>(), 0.005);
}

// A resume has masters, moments and the count of updates; the draws follow from these.
TEST(AdamWTest, MomentsInBfloat16GoOnWithTheSameBits) {
  const auto make_narrow = [] {
    return FlatParameters({{"a", {{"m", {{"a.matrix", {5, 9}, ParameterRole::kMatrix}}}}},
                           {"b", {{"m", {{"b.matrix", {7, 3}, ParameterRole::kMatrix}}}}}},
                          {}, at::kFloat, at::kCPU, FlatParameters::Purpose::kTraining,
                          at::kBFloat16);
  };
  AdamWSettings settings = kSettings;
  settings.seed = 17;
  const auto update = [&](FlatParameters& parameters, AdamW& optimizer, int n) {
    for (FlatUnit& unit : parameters.units()) {
      unit.gradient.copy_((at::arange(unit.gradient.numel()) * 0.37 + n).sin());
    }
    optimizer.step(1e-3, scalar(1.0), scalar(n == 3 ? 0.0 : 1.0));  // one is skipped
  };
  const auto expect_equal = [](const FlatParameters& a, const FlatParameters& b, bool equal) {
    for (size_t u = 0; u < a.units().size(); ++u) {
      EXPECT_EQ(at::equal(a.units()[u].moment1, b.units()[u].moment1), equal);
      EXPECT_EQ(at::equal(a.units()[u].moment2, b.units()[u].moment2), equal);
      EXPECT_EQ(at::equal(a.units()[u].master, b.units()[u].master), equal);
    }
  };
  FlatParameters whole = make_narrow(), resumed = make_narrow(), other = make_narrow();
  AdamW optimizer(settings, whole);
  for (int n = 1; n <= 8; ++n) {
    update(whole, optimizer, n);
    if (n != 5) continue;
    for (size_t u = 0; u < whole.units().size(); ++u) {
      resumed.units()[u].master.copy_(whole.units()[u].master);
      resumed.units()[u].moment1.copy_(whole.units()[u].moment1);
      resumed.units()[u].moment2.copy_(whole.units()[u].moment2);
    }
  }
  AdamW again(settings, resumed);
  again.set_updates(4);
  for (int n = 6; n <= 8; ++n) update(resumed, again, n);
  expect_equal(resumed, whole, true);

  settings.seed = 18;
  AdamW reseeded(settings, other);
  for (int n = 1; n <= 8; ++n) update(other, reseeded, n);
  expect_equal(other, whole, false);
}

TEST(AdamWTest, TheComputeCopyIsTheRoundedMaster) {
  FlatParameters parameters = make({}, at::kBFloat16);
  FlatUnit& unit = parameters.units()[0];
  AdamW optimizer(kSettings, parameters);
  unit.gradient.fill_(0.1);
  optimizer.step(1e-2, scalar(1.0), scalar(1.0));
  EXPECT_TRUE(unit.compute.equal(unit.master.to(at::kBFloat16)));
}

}  // namespace
}  // namespace swiattn
