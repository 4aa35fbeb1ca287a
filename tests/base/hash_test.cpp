#include "base/hash.h"

#include <gtest/gtest.h>

#include <string>

namespace swiattn {
namespace {

TEST(Hash, IsXxh3) {
  // From xxHash's own command line tool, xxhsum -H3.
  EXPECT_EQ(hash_text(""), 0x2d06800538d394c2ULL);
  EXPECT_EQ(hash_text("abc"), 0x78af5f94892f3950ULL);
}

TEST(Hash, PiecesOfAnySizeGiveTheHashOfTheWhole) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 31 % 251);
  for (size_t piece : {1u, 7u, 64u, 1023u, 5000u}) {
    Hasher hasher;
    for (size_t at = 0; at < text.size(); at += piece) {
      hasher.update(text.data() + at, std::min(piece, text.size() - at));
    }
    EXPECT_EQ(hasher.digest(), hash_text(text)) << piece;
  }
}

TEST(Hash, AskingForTheDigestDoesNotEndTheHash) {
  Hasher hasher;
  hasher.update("ab", 2);
  EXPECT_EQ(hasher.digest(), hash_text("ab"));
  hasher.update("c", 1);
  EXPECT_EQ(hasher.digest(), hash_text("abc"));
}

TEST(Hash, AMovedHasherGoesOn) {
  Hasher first;
  first.update("ab", 2);
  Hasher second = std::move(first);
  second.update("c", 1);
  EXPECT_EQ(second.digest(), hash_text("abc"));
}

TEST(Hash, UpdatingWithNothingIsAllowed) {
  Hasher hasher;
  hasher.update(nullptr, 0);
  EXPECT_EQ(hasher.digest(), hash_text(""));
}

TEST(Hash, IsWrittenWithSixteenDigits) {
  EXPECT_EQ(format_hash(0x0123456789abcdefULL), "xxh3:0123456789abcdef");
  EXPECT_EQ(format_hash(1), "xxh3:0000000000000001");
}

}  // namespace
}  // namespace swiattn
