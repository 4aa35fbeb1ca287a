#include "base/error.h"

#include "base/check.h"
#include "tests/base/expect_error.h"

namespace swiattn {
namespace {

TEST(Error, FailFormatsItsSentenceAndCarriesTheCode) {
  EXPECT_EQ(sentence_of(ExitCode::kData, [] { fail(ExitCode::kData, "Shard {} of {}.", 3, "x"); }),
            "Shard 3 of x.");
}

TEST(Error, ExitCodesAreTheNumbersThatScriptsRelyOn) {
  EXPECT_EQ(static_cast<int>(ExitCode::kDone), 0);
  EXPECT_EQ(static_cast<int>(ExitCode::kInternal), 1);
  EXPECT_EQ(static_cast<int>(ExitCode::kConfiguration), 2);
  EXPECT_EQ(static_cast<int>(ExitCode::kData), 3);
  EXPECT_EQ(static_cast<int>(ExitCode::kCheckpoint), 4);
  EXPECT_EQ(static_cast<int>(ExitCode::kCommunication), 5);
  EXPECT_EQ(static_cast<int>(ExitCode::kNumerics), 6);
  EXPECT_EQ(static_cast<int>(ExitCode::kPreempted), 75);
}

TEST(Check, AFalseConditionNamesItselfThePlaceAndTheReason) {
  const int count = 3;
  const std::string sentence = sentence_of(
      ExitCode::kInternal, [&] { SWIATTN_CHECK(count == 4, "{} layers instead of 4", count); });
  EXPECT_THAT(sentence, testing::HasSubstr("error_test.cpp:"));
  EXPECT_THAT(sentence, testing::HasSubstr("3 layers instead of 4"));
  EXPECT_THAT(sentence, testing::HasSubstr("(count == 4)"));
}

TEST(Check, ATrueConditionEvaluatesNoReason) {
  int evaluated = 0;
  SWIATTN_CHECK(true, "{}", ++evaluated);
  EXPECT_EQ(evaluated, 0);
}

}  // namespace
}  // namespace swiattn
