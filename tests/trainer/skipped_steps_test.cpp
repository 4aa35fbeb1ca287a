#include "trainer/skipped_steps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace swiattn {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr auto kNotFinite = SkipReason::kNotFinite;
constexpr auto kNoTarget = SkipReason::kNoTarget;

// The end of three steps in a row at step 10.
std::string end_of(const std::vector<SkipReason>& reasons) {
  SkippedSteps steps;
  for (const SkipReason reason : reasons) steps.add(reason);
  return steps.describe_end(10, 3);
}

TEST(SkippedSteps, OfOneReasonSayWhatHelpsAgainstIt) {
  EXPECT_EQ(
      end_of({kNotFinite, kNotFinite, kNotFinite}),
      "Step 10: 3 steps in a row were not finite. The weights are those of step 7; lower the "
      "learning rate, look at the data of these steps, or resume from an earlier checkpoint.");
  EXPECT_EQ(end_of({kNoTarget, kNoTarget, kNoTarget}),
            "Step 10: 3 steps in a row were skipped. The weights are those of step 7; train on "
            "longer documents, or set attention.mask_documents to false.");
}

TEST(SkippedSteps, ThatAreOneAreNoStreak) {
  SkippedSteps steps;
  steps.add(kNotFinite);
  EXPECT_THAT(steps.describe_end(3, 1),
              HasSubstr("Step 3 was not finite. The weights are those of step 2; lower"));
}

TEST(SkippedSteps, OfBothReasonsOrOfUnknownOnesSayWhatHelpsAgainstEither) {
  const std::vector<std::vector<SkipReason>> mixed = {{kNotFinite, kNotFinite, kNoTarget},
                                                      {kNoTarget, kNotFinite, kNotFinite},
                                                      {kNoTarget, kNoTarget, kNotFinite},
                                                      {kNotFinite, kNotFinite},
                                                      {kNoTarget, kNoTarget},
                                                      {}};
  for (const auto& reasons : mixed) {
    const std::string end = end_of(reasons);
    EXPECT_THAT(end, HasSubstr("Step 10: 3 steps in a row were skipped. The weights are those of "
                               "step 7; where they were not finite, lower the learning rate"));
    EXPECT_THAT(end, HasSubstr("; where no token had a target, train on longer documents"));
    EXPECT_THAT(end, Not(HasSubstr("were not finite. ")));
  }
}

}  // namespace
}  // namespace swiattn
