// Where packed documents' rows begin, against loops over their starts; and the sizes that plans are
// made for.
#include "attention/packed_documents.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace swiattn {
namespace {

struct Case {
  std::vector<int32_t> starts;
  int64_t skip, count, longest;  // given, then expected
};

class PackedDocumentsTest : public testing::TestWithParam<Case> {};

TEST_P(PackedDocumentsTest, RowsAndLengthsAreThoseOfTheDocuments) {
  const Case& c = GetParam();
  const auto documents = static_cast<int64_t>(c.starts.size()) - 1;
  const int64_t tokens = c.starts.back();
  int64_t longest = 0;
  for (size_t i = 0; i + 1 < c.starts.size(); ++i) {
    longest = std::max<int64_t>(longest, c.starts[i + 1] - c.starts[i]);
  }
  const PackedDocuments packed =
      pack_documents(at::tensor(c.starts, at::kInt), tokens, longest, c.skip);
  EXPECT_EQ(packed.count, c.count);
  EXPECT_EQ(packed.longest, c.longest);
  EXPECT_EQ(packed.gaps, c.skip > 0);
  ASSERT_EQ(packed.starts.scalar_type(), at::kLong);
  ASSERT_TRUE(packed.starts.is_contiguous());
  ASSERT_EQ(packed.starts.size(0), 2);
  ASSERT_GE(packed.starts.size(1), packed.count + 1);
  EXPECT_EQ(packed.starts.size(1) % 2, 0);
  ASSERT_EQ(packed.lengths.sizes(), at::IntArrayRef({packed.count}));
  ASSERT_EQ(packed.lengths.scalar_type(), at::kInt);

  const auto starts = packed.starts.accessor<int64_t, 2>();
  const auto lengths = packed.lengths.accessor<int32_t, 1>();
  for (int64_t i = 0; i < packed.count; ++i) {
    const int64_t begin = i < documents ? c.starts[static_cast<size_t>(i)] : tokens;
    const int64_t end = i < documents ? c.starts[static_cast<size_t>(i) + 1] : tokens;
    const int64_t length = std::max<int64_t>(0, end - begin - c.skip);
    EXPECT_EQ(lengths[i], length) << i;
    EXPECT_EQ(starts[1][i], begin) << i;
    EXPECT_EQ(starts[0][i] + length, end) << i;
    EXPECT_LE(length, packed.longest) << i;
  }
  for (int64_t i = packed.count; i < packed.starts.size(1); ++i) {
    EXPECT_EQ(starts[0][i], tokens);
    EXPECT_EQ(starts[1][i], tokens);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, PackedDocumentsTest,
    testing::Values(Case{{0, 1}, 0, 1, 128}, Case{{0, 100}, 0, 1, 128}, Case{{0, 300}, 0, 1, 384},
                    Case{{0, 1, 131, 387}, 0, 4, 256}, Case{{0, 1, 131, 387}, 1, 4, 256},
                    Case{{0, 1, 131, 387}, 130, 4, 128}, Case{{0, 1, 131, 387}, 1000, 4, 128},
                    Case{{0, 5, 10, 15, 20, 25}, 2, 8, 128},
                    Case{{0, 1500, 2000, 40000}, 0, 4, 40960},
                    Case{{0, 1500, 2000, 40000}, 8000, 4, 32768}));

TEST(PackedDocumentsSizes, GrowByAtMostAnEighthInMultiplesOf128) {
  for (const int64_t n : {1, 127, 128, 129, 2048, 2049, 30000, 32768, 32769, 1000000}) {
    const int64_t rounded = round_for_plans(n);
    EXPECT_GE(rounded, n);
    EXPECT_EQ(rounded % 128, 0);
    EXPECT_LE(rounded - n, std::max<int64_t>(127, n / 8)) << n;
    EXPECT_EQ(round_for_plans(rounded), rounded);
  }
  EXPECT_EQ(round_for_plans(32768), 32768);
  EXPECT_EQ(round_for_plans(32769), 36864);
}

}  // namespace
}  // namespace swiattn
