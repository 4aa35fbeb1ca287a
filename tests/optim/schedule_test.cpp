#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace swiattn {
namespace {

constexpr Schedule kBase{ScheduleKind::kCosine, 1e-3, 0.1, 100, 20, 0};

Schedule with(ScheduleKind kind) {
  Schedule schedule = kBase;
  schedule.kind = kind;
  schedule.decay_steps = 10;
  return schedule;
}

TEST(ScheduleTest, WarmUpRisesInAStraightLineFromTheFirstStep) {
  for (const auto kind : {ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kWsd,
                          ScheduleKind::kConstant}) {
    EXPECT_DOUBLE_EQ(with(kind).learning_rate(1), 1e-3 / 20);
    EXPECT_DOUBLE_EQ(with(kind).learning_rate(10), 1e-3 / 2);
    EXPECT_DOUBLE_EQ(with(kind).learning_rate(20), 1e-3);
  }
}

TEST(ScheduleTest, TheFinalRateIsReachedAtTheLastStep) {
  for (const auto kind : {ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kWsd}) {
    EXPECT_NEAR(with(kind).learning_rate(100), 1e-4, 1e-18);
    EXPECT_GT(with(kind).learning_rate(99), 1e-4);
  }
  EXPECT_DOUBLE_EQ(with(ScheduleKind::kConstant).learning_rate(100), 1e-3);
}

TEST(ScheduleTest, CosineFollowsItsFormula) {
  for (const int64_t k : {21, 37, 60, 99}) {
    const double x = double(k - 20) / 80.0;
    EXPECT_NEAR(kBase.learning_rate(k), 1e-4 + 9e-4 * (1 + std::cos(M_PI * x)) / 2, 1e-15);
  }
}

TEST(ScheduleTest, WsdStaysAtThePeakUntilItsLastPart) {
  const Schedule schedule = with(ScheduleKind::kWsd);
  EXPECT_DOUBLE_EQ(schedule.learning_rate(90), 1e-3);
  EXPECT_NEAR(schedule.learning_rate(95), 1e-3 - 0.5 * 9e-4, 1e-15);
}

TEST(ScheduleTest, AWarmUpAsLongAsTheRunEndsAtThePeak) {
  Schedule schedule = kBase;
  schedule.warmup_steps = 100;
  EXPECT_DOUBLE_EQ(schedule.learning_rate(100), 1e-3);
}

TEST(ScheduleTest, WithoutWarmUpTheFirstStepIsOnTheCurve) {
  Schedule schedule = kBase;
  schedule.warmup_steps = 0;
  EXPECT_NEAR(schedule.learning_rate(1), 1e-4 + 9e-4 * (1 + std::cos(M_PI / 100)) / 2, 1e-15);
}

}  // namespace
}  // namespace swiattn
