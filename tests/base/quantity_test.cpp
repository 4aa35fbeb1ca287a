#include "base/quantity.h"

#include "tests/base/expect_error.h"

namespace swiattn {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

int64_t thousand(std::string_view text) {
  return parse_quantity(text, QuantityBase::kThousand, "train.tokens");
}
int64_t binary(std::string_view text) {
  return parse_quantity(text, QuantityBase::kBinary, "attention.window");
}
std::string refusal(std::string_view text) {
  return sentence_of(ExitCode::kConfiguration, [&] { thousand(text); });
}

TEST(Quantity, UnitsArePowersOfTheBase) {
  EXPECT_EQ(thousand("0"), 0);
  EXPECT_EQ(thousand("4096"), 4096);
  EXPECT_EQ(thousand("4K"), 4000);
  EXPECT_EQ(thousand("20B"), 20000000000);
  EXPECT_EQ(thousand("1.5M"), 1500000);
  EXPECT_EQ(thousand("2T"), 2000000000000);
  EXPECT_EQ(binary("4K"), 4096);
  EXPECT_EQ(binary("1.5K"), 1536);
  EXPECT_EQ(binary("2M"), 2097152);
  EXPECT_EQ(binary("1T"), 1LL << 40);
  EXPECT_EQ(binary("0.0009765625K"), 1);
}

TEST(Quantity, ExponentsAndFractionsAreExact) {
  EXPECT_EQ(thousand("1e6"), 1000000);
  EXPECT_EQ(thousand("1.25E+2"), 125);
  EXPECT_EQ(thousand("5000e-3"), 5);
}

TEST(Quantity, TheLargestIsTwoToTheFiftyThree) {
  EXPECT_EQ(thousand("9007199254740992"), 1LL << 53);
  EXPECT_EQ(thousand("900719925474099200e-2"), 1LL << 53);
  EXPECT_EQ(binary("8192T"), 1LL << 53);
  EXPECT_THAT(refusal("9007199254740993"), HasSubstr("2^53"));
  EXPECT_THAT(refusal("9.1e15"), HasSubstr("2^53"));
  EXPECT_THAT(refusal("1e400"), StartsWith("train.tokens: "));
  EXPECT_THAT(refusal("1e999999999999999999"), StartsWith("train.tokens: "));
  EXPECT_THAT(refusal(std::string(400, '9')), HasSubstr("too many digits"));
}

TEST(Quantity, WhatIsNotWholeIsRefused) {
  EXPECT_THAT(refusal("1.5"), HasSubstr("not whole"));
  EXPECT_THAT(refusal("1.00001K"), HasSubstr("not whole"));
  EXPECT_THAT(refusal("1e-1"), HasSubstr("not whole"));
  EXPECT_THAT(sentence_of(ExitCode::kConfiguration, [] { binary("0.3K"); }),
              HasSubstr("not whole"));
  EXPECT_EQ(thousand("0.3K"), 300);
}

TEST(Quantity, WhatIsNoNumberIsRefusedUnderItsName) {
  for (const char* text :
       {"",    " ",     "K",   "-1", "+1", "4k",  "4 K",  "4KB", "4KK", "0x10",  "010",
        "1_0", "1,000", ".5K", "5.", "1e", "1e+", "1e+K", "nan", "inf", "1.2.3", "４"}) {
    EXPECT_THAT(refusal(text), StartsWith("train.tokens: expected a whole number")) << text;
    EXPECT_THAT(refusal(text), HasSubstr(std::string("found \"") + text + "\"")) << text;
  }
}

TEST(Quantity, DurationsHaveSecondsMinutesAndHours) {
  EXPECT_EQ(parse_duration("300s", "x"), 300.0);
  EXPECT_EQ(parse_duration("300", "x"), 300.0);
  EXPECT_EQ(parse_duration("0.5s", "x"), 0.5);
  EXPECT_EQ(parse_duration("5m", "x"), 300.0);
  EXPECT_EQ(parse_duration("1.5h", "x"), 5400.0);
  for (const char* text : {"", "s", "-1s", "1d", "5 m", "1e400", "nan", "5mm", "05s"}) {
    EXPECT_THAT(
        sentence_of(ExitCode::kConfiguration, [&] { parse_duration(text, "parallel.timeout"); }),
        StartsWith("parallel.timeout: expected a duration"))
        << text;
  }
}

TEST(Quantity, FormattingTakesTheLargestUnitThatDivides) {
  EXPECT_EQ(format_quantity(4096, QuantityBase::kBinary), "4K");
  EXPECT_EQ(format_quantity(20000000000, QuantityBase::kThousand), "20B");
  EXPECT_EQ(format_quantity(1500, QuantityBase::kThousand), "1500");
  EXPECT_EQ(format_quantity(500, QuantityBase::kThousand), "500");
  EXPECT_EQ(format_quantity(0, QuantityBase::kBinary), "0");
}

TEST(Quantity, WhatIsFormattedReadsBackTheSame) {
  for (int64_t value :
       {0LL, 1LL, 999LL, 1000LL, 1024LL, 1234567LL, 5000000LL, 1LL << 40, 1LL << 53}) {
    EXPECT_EQ(thousand(format_quantity(value, QuantityBase::kThousand)), value);
    EXPECT_EQ(binary(format_quantity(value, QuantityBase::kBinary)), value);
  }
}

}  // namespace
}  // namespace swiattn
