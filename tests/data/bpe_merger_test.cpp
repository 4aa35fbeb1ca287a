#include "data/bpe_merger.h"

#include <gtest/gtest.h>

#include <random>

namespace swiattn {
namespace {

using Ids = std::vector<int32_t>;

// A merge as a table entry, for the plain algorithm below.
struct Merge {
  int32_t left, right, merged;
};

// Merges the first pair of the lowest rank until there is none: the definition.
Ids merge_plainly(Ids ids, const std::vector<Merge>& merges) {
  for (;;) {
    size_t best_rank = merges.size();
    size_t place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) {
          best_rank = rank;
          place = i;
        }
      }
    }
    if (best_rank == merges.size()) return ids;
    ids[place] = merges[best_rank].merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

TEST(BpeMerger, MergesAsDefinedForShortAndLongWords) {
  std::mt19937 random(2);
  for (int round = 0; round < 60; ++round) {
    // Random merges over the letters a to d, each making a new token.
    std::vector<Merge> merges;
    BpeMerger merger;
    merger.reserve_merges(40);
    for (int letter = 0; letter < 4; ++letter) merger.set_byte_id('a' + letter, letter);
    for (int32_t next = 4; next < 40; ++next) {
      const Merge merge{static_cast<int32_t>(random() % next),
                        static_cast<int32_t>(random() % next), next};
      bool known = false;
      for (const Merge& other : merges) {
        known |= other.left == merge.left && other.right == merge.right;
      }
      if (known) continue;
      merger.add_merge(merge.left, merge.right, static_cast<uint32_t>(merges.size()), merge.merged);
      merges.push_back(merge);
    }
    for (const size_t size : {0, 1, 2, 3, 10, 63, 64, 65, 66, 200}) {
      std::string word;
      Ids bytes;
      for (size_t i = 0; i < size; ++i) {
        bytes.push_back(static_cast<int32_t>(random() % (round % 2 ? 4 : 2)));
        word.push_back(static_cast<char>('a' + bytes.back()));
      }
      Ids ids = {77};  // what is there already stays
      merger.encode(word, ids);
      EXPECT_EQ(ids.front(), 77);
      EXPECT_EQ(Ids(ids.begin() + 1, ids.end()), merge_plainly(bytes, merges)) << word;
    }
  }
}

TEST(BpeMerger, GivesNothingForBytesWithoutAToken) {
  BpeMerger merger;
  merger.reserve_merges(1);
  merger.set_byte_id('a', 0);
  merger.set_byte_id('b', 1);
  merger.add_merge(0, 1, 0, 2);
  Ids ids;
  merger.encode("axb", ids);
  EXPECT_EQ(ids, Ids{2});  // neighbours now, as in the tokenizers library
}

TEST(BpeMerger, TheLaterOfTwoEqualMergesCounts) {
  BpeMerger merger;
  merger.reserve_merges(3);
  for (int i = 0; i < 3; ++i) merger.set_byte_id(static_cast<unsigned char>('a' + i), i);
  merger.add_merge(0, 1, 0, 3);
  merger.add_merge(1, 2, 1, 4);
  merger.add_merge(0, 1, 2, 3);
  Ids ids;
  merger.encode("abc", ids);
  EXPECT_EQ(ids, (Ids{0, 4}));
}

}  // namespace
}  // namespace swiattn
