#include "base/text.h"

#include <gtest/gtest.h>

namespace swiattn {
namespace {

TEST(Nearest, FindsTheWordWithATypingError) {
  const std::vector<std::string> keys = {"steps", "tokens", "global_batch", "micro_batch"};
  EXPECT_EQ(nearest("step", keys), "steps");
  EXPECT_EQ(nearest("setps", keys), "steps");
  EXPECT_EQ(nearest("tokns", keys), "tokens");
  EXPECT_EQ(nearest("globalbatch", keys), "global_batch");
  EXPECT_EQ(nearest("mico_batch", keys), "micro_batch");
}

TEST(Nearest, SuggestsNothingFarAway) {
  EXPECT_EQ(nearest("optimizer", {"steps", "tokens"}), "");
  EXPECT_EQ(nearest("ab", {"cd"}), "");
  EXPECT_EQ(nearest("x", {}), "");
}

TEST(Shorten, CutsLongTextsBetweenCharacters) {
  EXPECT_EQ(shorten("12345678", 8), "12345678");
  EXPECT_EQ(shorten("123456789", 8), "12345...");
  EXPECT_EQ(shorten("1234\u00e4\u00e4\u00e4", 8), "1234...");
  EXPECT_EQ(shorten("\U0001f600\U0001f600\U0001f600", 8), "\U0001f600...");
}

TEST(Glob, StarsMatchAnyRunAndQuestionMarksOneCharacter) {
  EXPECT_TRUE(glob_matches("*", ""));
  EXPECT_TRUE(glob_matches("*", "model.norm.weight"));
  EXPECT_TRUE(glob_matches("*.router.*", "model.layers.3.self_attn.router.weight"));
  EXPECT_TRUE(glob_matches("model.layers.?.*", "model.layers.3.mlp"));
  EXPECT_FALSE(glob_matches("model.layers.?.*", "model.layers.13.mlp"));
  EXPECT_TRUE(glob_matches("a**b", "ab"));
  EXPECT_TRUE(glob_matches("a*b*c", "aXbYbZc"));
  EXPECT_TRUE(glob_matches("*ab", "aab"));
}

TEST(Glob, MatchesTheWholeText) {
  EXPECT_FALSE(glob_matches("router", "router.weight"));
  EXPECT_FALSE(glob_matches("", "a"));
  EXPECT_TRUE(glob_matches("", ""));
  EXPECT_FALSE(glob_matches("?", ""));
  EXPECT_FALSE(glob_matches("a*b", "abc"));
  EXPECT_FALSE(glob_matches("[ab]", "a"));  // brackets are plain characters
}

TEST(Glob, ManyStarsTakeNoExponentialTime) {
  EXPECT_FALSE(glob_matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", std::string(5000, 'a')));
}

TEST(RandomDigits, AreOthersEveryTime) {
  const std::string digits = random_digits();
  EXPECT_EQ(digits.size(), 32U);
  EXPECT_EQ(digits.find_first_not_of("0123456789abcdef"), std::string::npos) << digits;
  EXPECT_NE(random_digits(), digits);
}

}  // namespace
}  // namespace swiattn
