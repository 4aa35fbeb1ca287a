// Profiles of invented steps, with times that a person can add up.
#include "trainer/profile_summary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "trainer/profile_tables.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using Kind = ProfileEvent::Kind;

constexpr int64_t kMicrosecond = 1000;
const std::vector<std::string> kPhases = {"forward", "backward", "read-back"};

ProfileEvent event(Kind kind, const std::string& name, int64_t start, int64_t end) {
  ProfileEvent made;
  made.kind = kind;
  made.name = name;
  made.start = start * kMicrosecond;
  made.end = end * kMicrosecond;
  return made;
}
ProfileEvent launch(uint64_t id, int64_t start) {
  ProfileEvent made = event(Kind::kLaunch, "cudaLaunchKernel", start, start + 1);
  made.launch = id;
  return made;
}
ProfileEvent work(uint64_t launched_by, const std::string& name, int64_t start, int64_t end) {
  ProfileEvent made = event(Kind::kGpuWork, name, start, end);
  made.launch = launched_by;
  return made;
}
ProfileEvent call(uint64_t thread, const std::string& name, int64_t start, int64_t end) {
  ProfileEvent made = event(Kind::kOperator, name, start, end);
  made.thread = thread;
  return made;
}

// Two steps of 100 us: forward launches a GEMM and a norm, backward two GEMMs, which run behind.
std::vector<ProfileEvent> two_steps() {
  std::vector<ProfileEvent> events;
  for (const int64_t at : {0, 200}) {
    const auto id = static_cast<uint64_t>(at + 1);
    events.push_back(event(Kind::kStep, "step", at, at + 100));
    events.push_back(event(Kind::kPhase, "forward", at + 5, at + 20));
    events.push_back(event(Kind::kPhase, "backward", at + 20, at + 30));
    events.push_back(event(Kind::kPhase, "read-back", at + 35, at + 95));
    events.push_back(launch(id, at + 6));
    events.push_back(launch(id + 1, at + 10));
    events.push_back(launch(id + 2, at + 21));
    events.push_back(launch(id + 3, at + 25));
    events.push_back(work(id, "gemm", at + 10, at + 30));
    events.push_back(work(id + 1, "void norm<4>(float*)", at + 30, at + 35));
    events.push_back(work(id + 2, "gemm", at + 40, at + 60));
    events.push_back(work(id + 3, "gemm", at + 60, at + 80));
  }
  return events;
}

double sum_of_shares(const ProfileSummary& summary) {
  double sum = summary.idle_share;
  for (const auto& phase : summary.phases) sum += phase.share;
  return sum;
}

TEST(ProfileSummary, GpuTimeGoesToThePhaseThatLaunchedIt) {
  const ProfileSummary summary = summarize_profile(two_steps(), kPhases, true);
  EXPECT_EQ(summary.steps, 2);
  EXPECT_DOUBLE_EQ(summary.step_milliseconds, 0.1);
  ASSERT_EQ(summary.phases.size(), 4U);
  EXPECT_EQ(summary.phases[0].name, "forward");
  EXPECT_NEAR(summary.phases[0].gpu_milliseconds, 0.025, 1e-9);
  EXPECT_NEAR(summary.phases[0].host_milliseconds, 0.015, 1e-9);
  EXPECT_NEAR(summary.phases[1].gpu_milliseconds, 0.040, 1e-9);
  EXPECT_NEAR(summary.phases[1].share, 0.4, 1e-9);
  EXPECT_EQ(summary.phases[2].gpu_milliseconds, 0.0);
  EXPECT_NEAR(summary.phases[2].host_milliseconds, 0.060, 1e-9);
  EXPECT_EQ(summary.phases[3].name, "other");
  EXPECT_EQ(summary.phases[3].gpu_milliseconds, 0.0);
  EXPECT_NEAR(summary.phases[3].host_milliseconds, 0.015, 1e-9);
  EXPECT_NEAR(summary.idle_share, 0.35, 1e-9);
  EXPECT_NEAR(sum_of_shares(summary), 1.0, 1e-12);
  EXPECT_TRUE(summary.complete);
}

TEST(ProfileSummary, KernelsAreListedByTheirTime) {
  const ProfileSummary summary = summarize_profile(two_steps(), kPhases, true);
  ASSERT_EQ(summary.kernels.size(), 2U);
  EXPECT_EQ(summary.kernels[0].name, "gemm");
  EXPECT_EQ(summary.kernels[0].calls, 3.0);
  EXPECT_NEAR(summary.kernels[0].mean_microseconds, 20.0, 1e-9);
  EXPECT_NEAR(summary.kernels[0].milliseconds, 0.060, 1e-9);
  EXPECT_NEAR(summary.kernels[0].share, 60.0 / 65, 1e-9);
  EXPECT_EQ(summary.kernels[1].name, "norm<4>");
  EXPECT_EQ(summary.kernels[1].full_name, "void norm<4>(float*)");
  EXPECT_EQ(summary.kernels[1].calls, 1.0);
}

TEST(ProfileSummary, TheOrderOfTheEventsDoesNotMatter) {
  std::vector<ProfileEvent> events = two_steps();
  const std::string expected =
      profile_json(summarize_profile(events, kPhases, true), {1, "GPU"}).dump();
  std::mt19937 random(7);
  for (int i = 0; i < 10; ++i) {
    std::shuffle(events.begin(), events.end(), random);
    EXPECT_EQ(profile_json(summarize_profile(events, kPhases, true), {1, "GPU"}).dump(), expected);
  }
}

TEST(ProfileSummary, WhatIsOutsideOfStepsDoesNotCount) {
  std::vector<ProfileEvent> events = two_steps();
  const std::string expected =
      profile_json(summarize_profile(events, kPhases, true), {1, "GPU"}).dump();
  events.push_back(event(Kind::kPhase, "forward", 120, 150));  // a validation
  events.push_back(launch(900, 130));
  events.push_back(work(900, "gemm", 131, 199));
  EXPECT_EQ(profile_json(summarize_profile(events, kPhases, true), {1, "GPU"}).dump(), expected);
}

TEST(ProfileSummary, WorkOutsideOfPhasesIsOther) {
  std::vector<ProfileEvent> events = two_steps();
  events.push_back(launch(900, 97));
  events.push_back(work(900, "late", 98, 100));
  const ProfileSummary summary = summarize_profile(events, kPhases, true);
  EXPECT_NEAR(summary.phases.back().gpu_milliseconds, 0.001, 1e-9);
  EXPECT_NEAR(sum_of_shares(summary), 1.0, 1e-12);
}

TEST(ProfileSummary, WorkAtTheSameTimeCountsOnceForPhasesAndWholeForKernels) {
  std::vector<ProfileEvent> events = two_steps();
  events.push_back(launch(900, 22));
  events.push_back(work(900, "copy", 50, 70));  // beside two GEMMs of backward
  const ProfileSummary summary = summarize_profile(events, kPhases, true);
  EXPECT_NEAR(summary.phases[1].gpu_milliseconds, 0.040, 1e-9);
  EXPECT_NEAR(summary.kernels[1].milliseconds, 0.010, 1e-9);
  EXPECT_NEAR(sum_of_shares(summary), 1.0, 1e-12);
}

TEST(ProfileSummary, WorkThatOutlastsItsStepKeepsSharesBelowTheWhole) {
  std::vector<ProfileEvent> events = {event(Kind::kStep, "step", 0, 10), launch(1, 1),
                                      work(1, "gemm", 5, 45)};
  const ProfileSummary summary = summarize_profile(events, kPhases, true);
  EXPECT_EQ(summary.idle_share, 0.0);
  EXPECT_NEAR(sum_of_shares(summary), 1.0, 1e-12);
}

TEST(ProfileSummary, ALostLaunchIsFoundThroughTheOperatorOrTheWorkBefore) {
  std::vector<ProfileEvent> events = {event(Kind::kStep, "step", 0, 100),
                                      event(Kind::kPhase, "forward", 0, 20),
                                      event(Kind::kPhase, "backward", 20, 40), launch(1, 1)};
  events.push_back(call(1, "aten::mm", 21, 30));
  events.back().call = 5;
  events.push_back(work(1, "first", 10, 20));
  events.push_back(work(0, "of nobody", 20, 30));  // after the first
  events.push_back(work(77, "of the operator", 30, 40));
  events.back().call = 5;
  const ProfileSummary summary = summarize_profile(events, kPhases, true);
  EXPECT_NEAR(summary.phases[0].gpu_milliseconds, 0.020, 1e-9);
  EXPECT_NEAR(summary.phases[1].gpu_milliseconds, 0.010, 1e-9);
}

TEST(ProfileSummary, AStepWithoutWorkOfTheGpuIsNoticed) {
  std::vector<ProfileEvent> events = two_steps();
  std::erase_if(events, [](const ProfileEvent& e) {
    return e.kind == Kind::kGpuWork && e.start > 150 * kMicrosecond;
  });
  EXPECT_FALSE(summarize_profile(events, kPhases, true).complete);
}

TEST(ProfileSummary, KernelsOfOneNameAreToldApartByTheirArguments) {
  const std::vector<ProfileEvent> events = {
      event(Kind::kStep, "step", 0, 100), launch(1, 1), work(1, "void a::copy(float*)", 10, 20),
      work(1, "void b::copy(c::Half*)", 20, 40), work(1, "void b::fill(float*)", 40, 41)};
  const ProfileSummary summary = summarize_profile(events, kPhases, true);
  ASSERT_EQ(summary.kernels.size(), 3U);
  EXPECT_EQ(summary.kernels[0].name, "copy(Half*)");
  EXPECT_EQ(summary.kernels[1].name, "copy(float*)");
  EXPECT_EQ(summary.kernels[2].name, "fill");
}

TEST(ProfileSummary, WithoutAGpuOperatorsAreListedByTheirOwnTime) {
  const std::vector<ProfileEvent> events = {
      event(Kind::kStep, "step", 0, 100), event(Kind::kPhase, "forward", 10, 60),
      call(1, "aten::matmul", 10, 50),    call(1, "aten::mm", 12, 42),
      call(1, "aten::empty", 12, 14),                                      // begins with its caller
      call(1, "aten::mm", 50, 60),        call(2, "aten::copy_", 20, 30),  // of another thread
      call(1, "aten::outside", 120, 190),
  };
  const ProfileSummary summary = summarize_profile(events, kPhases, false);
  ASSERT_EQ(summary.kernels.size(), 4U);
  EXPECT_EQ(summary.kernels[0].name, "aten::mm");
  EXPECT_EQ(summary.kernels[0].calls, 2.0);
  EXPECT_NEAR(summary.kernels[0].milliseconds, 0.038, 1e-9);
  EXPECT_EQ(summary.kernels[1].name, "aten::copy_");
  EXPECT_EQ(summary.kernels[2].name, "aten::matmul");
  EXPECT_NEAR(summary.kernels[2].milliseconds, 0.010, 1e-9);
  EXPECT_NEAR(summary.kernels[3].milliseconds, 0.002, 1e-9);
  EXPECT_NEAR(summary.phases[0].share, 0.5, 1e-9);
  EXPECT_EQ(summary.idle_share, 0.0);
  EXPECT_NEAR(sum_of_shares(summary), 1.0, 1e-12);
}

TEST(ProfileSummary, WithoutStepsThereIsNothing) {
  for (const bool on_gpu : {false, true}) {
    const ProfileSummary summary = summarize_profile({}, kPhases, on_gpu);
    EXPECT_EQ(summary.steps, 0);
    EXPECT_TRUE(summary.kernels.empty());
  }
}

TEST(ProfileTables, AreForPeopleAndForPrograms) {
  const ProfileSummary summary = summarize_profile(two_steps(), kPhases, true);
  const std::string text = profile_text(summary, {11, "NVIDIA H100"});
  EXPECT_THAT(text, HasSubstr("Profile of steps 11 to 12 on NVIDIA H100, 0.100 ms a step."));
  EXPECT_THAT(text, HasSubstr("92.3 %"));
  EXPECT_THAT(text, HasSubstr("GPU idle"));
  const std::string on_cpu =
      profile_text(summarize_profile(two_steps(), kPhases, false), {11, "CPU"});
  EXPECT_THAT(on_cpu, MatchesRegex("(.|\n)*\nstep +- +0.100 +100.0 %\n"));
  const auto json = profile_json(summary, {11, "NVIDIA H100"});
  EXPECT_EQ(json["first_step"], 11);
  EXPECT_EQ(json["kernels"][0]["name"], "gemm");
  EXPECT_EQ(json["phases"][3]["name"], "other");
  EXPECT_EQ(profiled_steps(4, 1), "step 4");
}

}  // namespace
}  // namespace swiattn
