#include "loss/regularizer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace swiattn {
namespace {

TEST(RegularizerTest, KindsSwitchTheTermsOfTheDenominator) {
  const auto of = [](RegularizerKind kind) { return gamma_coefficients({kind, 2e-3, 0.1, 50.0}); };
  EXPECT_EQ(of(RegularizerKind::kAdaptive).nll_weight, 1.0);
  EXPECT_EQ(of(RegularizerKind::kAdaptive).disagreement_weight, 50.0);
  EXPECT_EQ(of(RegularizerKind::kNoNll).nll_weight, 0.0);
  EXPECT_EQ(of(RegularizerKind::kNoDisagreement).disagreement_weight, 0.0);
  EXPECT_TRUE(of(RegularizerKind::kConstant).constant);
  EXPECT_FALSE(of(RegularizerKind::kNone).active());
  EXPECT_TRUE(of(RegularizerKind::kTargetRatio).active());
}

TEST(RegularizerTest, TheControllerRaisesGammaAboveTheTargetAndLowersItBelow) {
  EXPECT_DOUBLE_EQ(next_gamma(1e-3, 0.2, 0.2), 1e-3);
  EXPECT_DOUBLE_EQ(next_gamma(1e-3, 0.4, 0.2), 1e-3 * std::exp(0.05));
  EXPECT_DOUBLE_EQ(next_gamma(1e-3, 0.1, 0.2), 1e-3 * std::exp(-0.025));
}

TEST(RegularizerTest, TheControllerKeepsGammaWithinFloat32) {
  for (const double target : {0.5, 0.01, 1e-300}) {
    double up = 1e-3, down = 1e-3;
    for (int step = 0; step < 2000; ++step) {
      up = next_gamma(up, 1.0, target);
      down = next_gamma(down, 0.0, target);
    }
    EXPECT_GT(up, 1e-3) << target;
    EXPECT_LE(up, kMostGamma) << target;
    EXPECT_LT(down, 1e-3) << target;
    EXPECT_GE(down, kLeastGamma) << target;
  }
}

}  // namespace
}  // namespace swiattn
