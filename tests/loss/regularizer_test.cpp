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

}  // namespace
}  // namespace swiattn
