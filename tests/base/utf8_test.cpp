#include "base/utf8.h"

#include <gtest/gtest.h>

namespace swiattn {
namespace {

TEST(Utf8, WellFormedSequencesOfEveryLengthAreValid) {
  EXPECT_TRUE(is_valid_utf8(""));
  EXPECT_TRUE(is_valid_utf8(std::string_view("a\0b", 3)));
  EXPECT_TRUE(is_valid_utf8("\xc2\x80 \xdf\xbf"));
  EXPECT_TRUE(is_valid_utf8("\xe0\xa0\x80 \xed\x9f\xbf \xee\x80\x80 \xef\xbf\xbf"));
  EXPECT_TRUE(is_valid_utf8("\xf0\x90\x80\x80 \xf4\x8f\xbf\xbf"));
}

TEST(Utf8, EveryKindOfMalformedSequenceIsInvalid) {
  for (const char* bytes : {
           "\x80",              // a continuation byte alone
           "\xc0\xaf",          // overlong, two bytes
           "\xc1\xbf",          //
           "\xe0\x9f\xbf",      // overlong, three bytes
           "\xed\xa0\x80",      // the first surrogate
           "\xed\xbf\xbf",      // the last
           "\xf0\x8f\xbf\xbf",  // overlong, four bytes
           "\xf4\x90\x80\x80",  // U+110000
           "\xf5\x80\x80\x80",  //
           "\xff",              //
           "\xc2",              // cut short
           "\xe2\x82",          //
           "\xf0\x9f\x98",      //
           "\xc2 ",             // not continued
           "\xe2\x82 ",         //
           "\xf0\x9f\x98 ",     //
           "ok \xf0\x28\x8c\xbc",
       }) {
    EXPECT_FALSE(is_valid_utf8(bytes)) << bytes;
  }
}

TEST(Utf8, ValidPrefixEndsWhereTheFirstIllFormedCharacterBegins) {
  const std::string_view good =
      "0123456789 a\u00e9\u07ff\u0800\ud7fb\ue000\uffff\U00010000\U0010ffff";
  EXPECT_EQ(valid_utf8_prefix(good), good.size());
  EXPECT_EQ(valid_utf8_prefix(""), 0u);
  for (const char* bad : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80",
                          "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff",
                          "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xc3(", "\xe2(\xa1", "\xf0\x9f("}) {
    const std::string text = std::string(good) + bad;
    EXPECT_EQ(valid_utf8_prefix(text), good.size()) << testing::PrintToString(bad);
    EXPECT_EQ(valid_utf8_prefix(text + "more text behind it"), good.size());
  }
}

TEST(Utf8, EveryCodePointIsReadBackAsWritten) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    ASSERT_EQ(valid_utf8_prefix(text), text.size()) << static_cast<uint32_t>(c);
    size_t offset = 0;
    ASSERT_EQ(next_code_point(text, offset), c);
    ASSERT_EQ(offset, text.size());
  }
}

// What Python's bytes.decode("utf-8", errors="replace") gives.
TEST(Utf8, ReplacesEveryMaximalSubpart) {
  EXPECT_EQ(replace_invalid_utf8("abc"), "abc");
  EXPECT_EQ(replace_invalid_utf8("a\xff"
                                 "b"),
            "a\ufffdb");
  EXPECT_EQ(replace_invalid_utf8("\xe2\x82"), "\ufffd");
  EXPECT_EQ(replace_invalid_utf8("\xe2\x82(\xe2("), "\ufffd(\ufffd(");
  EXPECT_EQ(replace_invalid_utf8("\xf0\x9f\x98\xf0\x9f\x98\x80"), "\ufffd\U0001f600");
  EXPECT_EQ(replace_invalid_utf8("\xed\xa0\x80"), "\ufffd\ufffd\ufffd");
  EXPECT_EQ(replace_invalid_utf8("\xc0\x80\x80"), "\ufffd\ufffd\ufffd");
  EXPECT_EQ(replace_invalid_utf8("\xf4\x90\x80\x80"), "\ufffd\ufffd\ufffd\ufffd");
}

}  // namespace
}  // namespace swiattn
