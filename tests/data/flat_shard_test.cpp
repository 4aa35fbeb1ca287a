#include "data/flat_shard.h"

#include <thread>

#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(FlatShard, DocumentsEndWithEosAndTheRestIsADocumentToo) {
  TemporaryFolder folder;
  const Documents documents = {{1, 2, kEos}, {kEos}, {3, kEos}, {4, 5}};
  const std::string path = write_flat_u16(folder, "s.bin", documents);
  const auto source = open_token_source(path, {.eos_id = kEos});
  EXPECT_EQ(source->format(), "flat");
  EXPECT_EQ(source->tokens(), 8);
  ASSERT_EQ(source->documents(), 4);
  for (size_t i = 0; i < documents.size(); ++i) {
    const TokenRange range = source->document(static_cast<int64_t>(i));
    EXPECT_EQ(read_tokens(*source, range.begin, range.end), documents[i]);
  }
  for (int64_t begin = 0; begin <= 8; ++begin) {
    for (int64_t end = begin; end <= 8; ++end) {
      std::vector<int64_t> expected;
      for (int64_t start : {0, 3, 4, 6}) {
        if (start >= begin && start < end) expected.push_back(start);
      }
      EXPECT_EQ(source->document_starts(begin, end), expected) << begin << " to " << end;
    }
  }
}

TEST(FlatShard, AnEosAtTheVeryEndBeginsNoFurtherDocument) {
  TemporaryFolder folder;
  const auto source =
      open_token_source(write_flat_u16(folder, "s.bin", {{1, kEos}, {2, kEos}}), {.eos_id = kEos});
  EXPECT_EQ(source->documents(), 2);
  EXPECT_EQ(source->document(1).end, 4);
}

TEST(FlatShard, FindsDocumentsAcrossTheBlocksItIsScannedIn) {
  TemporaryFolder folder;
  std::vector<int64_t> lengths(300, 997);
  lengths[0] = 65536;  // its eos is the last token of the first block
  Documents documents = counted_documents(lengths);
  for (auto& document : documents) {
    for (int32_t& id : document) id = id == kEos ? kEos : id % 50000 + 10;
  }
  const auto source =
      open_token_source(write_flat_u16(folder, "s.bin", documents), {.eos_id = kEos});
  ASSERT_EQ(source->documents(), 300);
  EXPECT_EQ(source->document(1).begin, 65536);
  EXPECT_EQ(source->document(299).begin, 65536 + 298 * 997);
  EXPECT_EQ(source->document_at(65535), 0);
  EXPECT_EQ(source->document_at(65536), 1);
}

TEST(FlatShard, ManyThreadsMayAskForDocumentsAtOnce) {
  TemporaryFolder folder;
  const auto source = open_token_source(
      write_flat_u16(folder, "s.bin", counted_documents(std::vector<int64_t>(5000, 3))),
      {.eos_id = kEos});
  std::vector<int64_t> counts(4);
  {
    std::vector<std::jthread> threads;
    for (int64_t& count : counts) {
      threads.emplace_back([&source, &count] { count = source->documents(); });
    }
  }
  EXPECT_THAT(counts, ElementsAre(5000, 5000, 5000, 5000));
}

TEST(FlatShard, TheTypeIsTheSideFilesElseTheEndingsElseTheContents) {
  TemporaryFolder folder;
  const Documents few = {{1, 2, 3, 4}};
  const Documents many = counted_documents(std::vector<int64_t>(10, 10));
  const TokenSourceOptions options{.eos_id = kEos};
  EXPECT_EQ(read_all(*open_token_source(write_flat_u32(folder, "a.u32.bin", few), options)),
            joined(few));
  EXPECT_EQ(read_all(*open_token_source(write_flat_u16(folder, "a.u16.bin", few), options)),
            joined(few));
  EXPECT_EQ(read_all(*open_token_source(write_flat_u16(folder, "b.bin", few), options)),
            joined(few));
  EXPECT_EQ(read_all(*open_token_source(write_flat_u16(folder, "c.bin", many), options)),
            joined(many));
  EXPECT_EQ(read_all(*open_token_source(write_flat_u32(folder, "d.bin", many), options)),
            joined(many));
  write_file(folder.file("e.json"), R"({"token_type": "u32"})");
  EXPECT_EQ(read_all(*open_token_source(write_flat_u32(folder, "e.bin", few), options)),
            joined(few));
  write_file(folder.file("f.json"), R"({"token_type": "u16", "eos_id": 2})");
  const auto source = open_token_source(write_flat_u16(folder, "f.bin", few));
  EXPECT_EQ(source->documents(), 2);
}

TEST(FlatShard, RefusesWhatItCannotRead) {
  TemporaryFolder folder;
  const std::string path = write_flat_u16(folder, "s.bin", {{1, 2, 3}});
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(path); }),
              HasSubstr(path + ": this shard has no index, so the id"));
  write_file(folder.file("s.json"), R"({"tokens": 4, "eos_id": 3})");
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(path); }),
              HasSubstr("tokens is 4, but the shard has 3"));
  write_file(folder.file("s.json"), R"({"token_type": "u32", "eos_id": 3})");
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(path); }),
              HasSubstr(path + ": 6 bytes is not a whole number of u32 tokens"));
  write_file(folder.file("odd.bin"), "abc");
  EXPECT_THAT(sentence_of(ExitCode::kData,
                          [&] { open_token_source(folder.file("odd.bin"), {.eos_id = 1}); }),
              HasSubstr("odd.bin: 3 bytes is not a whole number of u16 tokens"));
}

TEST(FlatShard, AnEmptyFileHasNoTokens) {
  TemporaryFolder folder;
  const auto source = open_token_source(write_flat_u16(folder, "s.bin", {}), {.eos_id = 1});
  EXPECT_EQ(source->tokens(), 0);
  EXPECT_EQ(source->documents(), 0);
}

}  // namespace
}  // namespace swiattn
