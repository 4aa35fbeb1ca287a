#include "data/shard_writer.h"

#include <numeric>

#include "base/hash.h"
#include "tests/base/expect_error.h"
#include "tests/base/fault_file_system.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ShardInfo small_info() {
  return {.tokenizer_name = "t", .tokenizer_hash = "xxh3:00", .vocab_size = 100, .eos_id = kEos};
}

TEST(ShardWriter, WritesPayloadIndexAndSideFileByteForByte) {
  TemporaryFolder folder;
  {
    ShardWriter writer(FileSystem::posix(), folder.file("shard"), small_info());
    writer.append_document(std::vector<int32_t>{1, 2, 9});
    writer.append_document(std::vector<int32_t>{99, 9});
    writer.finish();
  }
  std::string payload;
  for (uint16_t id : {1, 2, 9, 99, 9}) payload += bytes_of(id);
  std::string index("MMIDIDX\0\0", 9);
  index += bytes_of(uint64_t{1}) + bytes_of(uint8_t{8}) + bytes_of(uint64_t{2}) +
           bytes_of(uint64_t{3}) + bytes_of(int32_t{3}) + bytes_of(int32_t{2}) +
           bytes_of(int64_t{0}) + bytes_of(int64_t{6}) + bytes_of(int64_t{0}) +
           bytes_of(int64_t{1}) + bytes_of(int64_t{2});
  EXPECT_EQ(read_file(folder.file("shard.bin"), ExitCode::kData), payload);
  EXPECT_EQ(read_file(folder.file("shard.idx"), ExitCode::kData), index);
  const ShardInfo info = read_shard_info(folder.file("shard.json"));
  EXPECT_EQ(info.tokenizer_name, "t");
  EXPECT_EQ(info.tokenizer_hash, "xxh3:00");
  EXPECT_EQ(info.vocab_size, 100);
  EXPECT_EQ(info.eos_id, kEos);
  EXPECT_EQ(info.token_type, TokenType::kU16);
  EXPECT_EQ(info.largest_id, 99);
  EXPECT_EQ(info.tokens, 5);
  EXPECT_EQ(info.documents, 2);
  EXPECT_EQ(info.payload_hash, format_hash(hash_text(payload)));
  EXPECT_THAT(list_folder(folder.path(), ExitCode::kData),
              ElementsAre("shard.bin", "shard.idx", "shard.json"));
}

TEST(ShardWriter, ChoosesU16UpTo65536IdsAndI32Above) {
  for (const auto& [vocab_size, type] :
       {std::pair{65536, TokenType::kU16}, std::pair{65537, TokenType::kI32}}) {
    TemporaryFolder folder;
    const std::string path = write_indexed(folder, "s", {{0, vocab_size - 1, 7}}, vocab_size);
    const auto source = open_token_source(path);
    EXPECT_EQ(source->token_type(), type);
    EXPECT_THAT(read_all(*source), ElementsAre(0, vocab_size - 1, 7));
  }
}

TEST(ShardWriter, WritesADocumentInPiecesLikeOneInAPieceAlsoAcrossItsBuffer) {
  std::vector<int32_t> document(1'300'001);
  std::iota(document.begin(), document.end(), 0);
  for (int64_t vocab_size : {2'000'000, 60'000}) {
    for (int32_t& id : document) id = static_cast<int32_t>(id % vocab_size);
    TemporaryFolder folder;
    ShardWriter writer(FileSystem::posix(), folder.file("s"), {.vocab_size = vocab_size});
    writer.append_document(document);
    writer.begin_document();
    const std::span<const int32_t> all(document);
    writer.append_tokens(all.first(1));
    writer.append_tokens({});
    writer.append_tokens(all.subspan(1, 999'999));
    writer.append_tokens(all.subspan(1'000'000));
    writer.end_document();
    writer.finish();
    const auto source = open_token_source(folder.file("s"));
    ASSERT_EQ(source->documents(), 2);
    const auto size = static_cast<int64_t>(document.size());
    EXPECT_EQ(read_tokens(*source, 0, size), document);
    EXPECT_EQ(read_tokens(*source, size, 2 * size), document);
    EXPECT_EQ(source->info().payload_hash,
              format_hash(hash_text(read_file(folder.file("s.bin"), ExitCode::kData))));
  }
}

TEST(ShardWriter, LeavesNothingBehindWithoutFinish) {
  TemporaryFolder folder;
  {
    ShardWriter writer(FileSystem::posix(), folder.file("new/shard"), small_info());
    writer.append_document(std::vector<int32_t>{1, 9});
  }
  EXPECT_THAT(list_folder(folder.file("new"), ExitCode::kData), IsEmpty());
}

TEST(ShardWriter, AShardWithoutDocumentsIsWellFormed) {
  TemporaryFolder folder;
  const auto source = open_token_source(write_indexed(folder, "s", {}));
  EXPECT_EQ(source->documents(), 0);
  EXPECT_EQ(source->tokens(), 0);
  EXPECT_FALSE(source->info().largest_id.has_value());
}

TEST(ShardWriter, RefusesIdsOutsideTheVocabularyAndDocumentsThatDoNotEndInEos) {
  TemporaryFolder folder;
  for (int32_t bad : {-1, 100}) {
    ShardWriter writer(FileSystem::posix(), folder.file("shard"), small_info());
    writer.append_document(std::vector<int32_t>{9});
    const std::string sentence = sentence_of(ExitCode::kData, [&] {
      writer.append_document(std::vector<int32_t>{1, bad, 9});
    });
    EXPECT_THAT(sentence, HasSubstr("document 1"));
    EXPECT_THAT(sentence, HasSubstr(std::to_string(bad)));
  }
  for (const auto& document : Documents{{}, {1, 2}}) {
    ShardWriter writer(FileSystem::posix(), folder.file("shard"), small_info());
    sentence_of(ExitCode::kInternal, [&] { writer.append_document(document); });
  }
}

// Writes a second shard over a first one and lets call after call go wrong.
TEST(ShardWriter, AFailureAtAnyCallLeavesTheOldShardOrTheNewOneOrOneThatIsRefused) {
  const Documents old_documents = {{1, 2, 9}, {3, 9}};
  const Documents new_documents = {{4, 5, 6, 7, 9}};
  using Fault = FaultFileSystem::Fault;
  using Names = FaultFileSystem::Names;
  for (const auto& [fault, names] : {std::pair{Fault::kOnce, Names::kKept},
                                     {Fault::kLasting, Names::kKept},
                                     {Fault::kShortWrite, Names::kKept},
                                     {Fault::kPowerCut, Names::kKept},
                                     {Fault::kPowerCut, Names::kLost}}) {
    int old_found = 0;
    int new_found = 0;
    bool triggered = true;
    for (int call = 1; triggered; ++call) {
      TemporaryFolder folder;
      const std::string prefix = write_indexed(folder, "shard", old_documents);
      FaultFileSystem files;
      files.inject(call, fault, ENOSPC);
      bool finished = false;
      try {
        ShardWriter writer(files, prefix, small_info());
        for (const auto& document : new_documents) writer.append_document(document);
        writer.finish();
        finished = true;
      } catch (const FileError& error) {
        EXPECT_TRUE(error.disk_full());
      }
      triggered = files.triggered();
      EXPECT_EQ(finished, !triggered);
      if (fault == Fault::kPowerCut) files.lose_unsynced(names);
      try {
        const auto source = open_token_source(prefix);
        const std::vector<int32_t> found = read_all(*source);
        old_found += found == joined(old_documents);
        new_found += found == joined(new_documents);
        EXPECT_TRUE(found == joined(old_documents) || found == joined(new_documents));
        if (finished) {
          EXPECT_EQ(found, joined(new_documents));
        }
      } catch (const Error& error) {
        EXPECT_FALSE(finished);
        EXPECT_THAT(error.what(), HasSubstr("there is no '" + prefix + ".idx'"));
      }
    }
    EXPECT_GT(old_found, 3);
    EXPECT_GT(new_found, 0);
  }
}

}  // namespace
}  // namespace swiattn
