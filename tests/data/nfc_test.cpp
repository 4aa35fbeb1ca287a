#include "data/nfc.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <set>

#include "base/utf8.h"

namespace swiattn {
namespace {

std::string nfc(std::string_view text) {
  std::string storage;
  return std::string(to_nfc(text, storage));
}

TEST(Nfc, ComposesReordersAndReplacesSingletons) {
  EXPECT_EQ(nfc(""), "");
  EXPECT_EQ(nfc("cafe\u0301"), "caf\u00e9");
  EXPECT_EQ(nfc("q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(nfc("\u212b\u2126\u037e"), "\u00c5\u03a9;");
  EXPECT_EQ(nfc("\u1112\u1161\u11ab\uac00\u11a8"), "\ud55c\uac01");
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093c");                        // a composition exclusion
  EXPECT_EQ(nfc("\ufb01 \u00bd \uff21"), "\ufb01 \u00bd \uff21");  // compatibility forms stay
  EXPECT_EQ(nfc(std::string_view("a\0e\u0301", 5)), std::string_view("a\0\u00e9", 4));
}

TEST(Nfc, GivesTextThatIsSoAlreadyWithoutACopy) {
  const std::string_view text =
      "It\u2019s \u4eca\u5929, \u041c\u043e\u0441\u043a\u0432\u0430 \U0001f600";
  std::string storage;
  EXPECT_EQ(to_nfc(text, storage).data(), text.data());
}

// The characters that stand second in a canonical composition.
std::set<char32_t> joining_characters() {
  std::set<char32_t> joining;
  for (char32_t c = 0; c < 0x110000; ++c) {
    utf8proc_int32_t parts[8];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 8,
                                               UTF8PROC_DECOMPOSE, &boundary);
    for (utf8proc_ssize_t i = 1; i < count; ++i) joining.insert(static_cast<char32_t>(parts[i]));
  }
  return joining;
}

TEST(Nfc, StartersNeverChangeWhateverStandsBeforeThem) {
  const std::set<char32_t> joining = joining_characters();
  EXPECT_EQ(joining.count(0x301), 1u);
  int starters = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (!is_nfc_starter(c)) continue;
    ++starters;
    std::string text;
    append_utf8(text, c);
    utf8proc_uint8_t* normalized =
        utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
    EXPECT_STREQ(reinterpret_cast<const char*>(normalized), text.c_str())
        << static_cast<uint32_t>(c);
    free(normalized);
    EXPECT_EQ(utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class, 0)
        << static_cast<uint32_t>(c);
    EXPECT_EQ(joining.count(c), 0u) << static_cast<uint32_t>(c);
  }
  EXPECT_GT(starters, 30000);
}

}  // namespace
}  // namespace swiattn
