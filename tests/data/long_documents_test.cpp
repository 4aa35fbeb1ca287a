#include "data/long_documents.h"

#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

TEST(LongDocuments, LeavesOutShortDocumentsAndKeepsTheOrderOfTheOthers) {
  TemporaryFolder folder;
  const std::vector<int64_t> lengths = {2, 5, 0, 3, 3, 1, 7, 4, 2};
  const Documents documents = counted_documents(lengths);
  const std::string indexed = write_indexed(folder, "indexed", documents);
  const std::string flat = write_flat_u16(folder, "flat.bin", documents);
  for (int64_t minimum = 0; minimum <= 9; ++minimum) {
    for (const std::string& path : {indexed, flat}) {
      Documents kept;
      for (const auto& document : documents) {
        const auto size = static_cast<int64_t>(document.size());
        if (size >= minimum && size > 0) kept.push_back(document);
      }
      const auto source = open_token_source(path, {.eos_id = kEos, .min_document_tokens = minimum});
      EXPECT_EQ(source->name(), path);
      const std::vector<int32_t> all = joined(kept);
      ASSERT_EQ(read_all(*source), all) << "at least " << minimum;

      std::vector<int64_t> starts;
      int64_t at = 0;
      for (const auto& document : kept) {
        starts.push_back(at);
        at += static_cast<int64_t>(document.size());
      }
      for (int64_t begin = 0; begin <= at; ++begin) {
        for (int64_t end = begin; end <= at; ++end) {
          std::vector<int64_t> expected;
          for (int64_t start : starts) {
            if (start >= begin && start < end) expected.push_back(start);
          }
          EXPECT_EQ(source->document_starts(begin, end), expected);
          EXPECT_EQ(read_tokens(*source, begin, end),
                    std::vector<int32_t>(all.begin() + begin, all.begin() + end));
        }
      }
    }
  }
}

TEST(LongDocuments, NumbersDocumentsAsTheShardDoes) {
  TemporaryFolder folder;
  const Documents documents = counted_documents({2, 5, 0, 3, 1, 7});
  const auto source =
      open_token_source(write_indexed(folder, "s", documents), {.min_document_tokens = 3});
  EXPECT_EQ(source->documents(), 6);
  EXPECT_EQ(source->document(0).size(), 0);
  EXPECT_EQ(source->document(1).begin, 0);
  EXPECT_EQ(source->document(1).end, 5);
  EXPECT_EQ(source->document(2).size(), 0);
  EXPECT_EQ(source->document(3).begin, 5);
  EXPECT_EQ(source->document(4).size(), 0);
  EXPECT_EQ(source->document(5).begin, 8);
  EXPECT_EQ(source->document(5).end, 15);
  const std::vector<int64_t> document_of = {1, 1, 1, 1, 1, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5};
  for (size_t token = 0; token < document_of.size(); ++token) {
    EXPECT_EQ(source->document_at(static_cast<int64_t>(token)), document_of[token]);
  }
}

TEST(LongDocuments, AReadOutsideTheTokensIsAnInternalError) {
  TemporaryFolder folder;
  const auto source = open_token_source(write_indexed(folder, "s", counted_documents({2, 5})),
                                        {.min_document_tokens = 3});
  std::vector<int32_t> ids(2);
  for (int64_t begin : {-1, 4, 5}) {
    sentence_of(ExitCode::kInternal, [&] { source->read(begin, ids); });
  }
}

}  // namespace
}  // namespace swiattn
