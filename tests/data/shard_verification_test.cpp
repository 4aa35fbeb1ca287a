#include "data/shard_verification.h"

#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FakeTokenizer : public Tokenizer {
 public:
  FakeTokenizer(int32_t vocab_size, std::optional<int32_t> eos_id, std::string hash)
      : Tokenizer("fake", std::move(hash)), vocab_size_(vocab_size) {
    set_eos_id(eos_id);
  }
  std::vector<int32_t> encode(std::string_view) const override { return {}; }
  std::string decode(std::span<const int32_t>) const override { return {}; }
  size_t last_cut(std::string_view) const override { return 0; }
  std::optional<int32_t> token_id(std::string_view) const override { return std::nullopt; }
  int32_t vocab_size() const override { return vocab_size_; }

 private:
  int32_t vocab_size_;
};

const Documents kDocuments = {{1, 2, kEos}, {3, kEos}, {99, 4, 5, kEos}};

std::string write_with_eos(const TemporaryFolder& folder, const Documents& documents = kDocuments) {
  ShardWriter writer(
      FileSystem::posix(), folder.file("s"),
      {.tokenizer_name = "fake", .tokenizer_hash = "xxh3:01", .vocab_size = 100, .eos_id = kEos});
  for (const auto& document : documents) writer.append_document(document);
  writer.finish();
  return folder.file("s");
}

TEST(ShardVerification, ASoundShardHasNoProblemsAndEverythingWasChecked) {
  TemporaryFolder folder;
  const auto source = open_token_source(write_with_eos(folder));
  const FakeTokenizer tokenizer(100, kEos, "xxh3:01");
  const ShardVerification result = verify_shard(*source, &tokenizer, 100);
  EXPECT_THAT(result.problems, IsEmpty());
  EXPECT_THAT(result.checked,
              ElementsAre("structure: 3 documents, 9 tokens of type u16",
                          "ids: against the vocabulary size 100", "document ends: against eos, 9",
                          HasSubstr("payload: hash xxh3:"), "tokenizer: hash xxh3:01"));
}

TEST(ShardVerification, SaysWhatCouldNotBeChecked) {
  TemporaryFolder folder;
  const std::string path = write_with_eos(folder);
  FileSystem::posix().remove_file(path + ".json");
  const auto source = open_token_source(path);
  const FakeTokenizer tokenizer(100, std::nullopt, "xxh3:01");
  EXPECT_THAT(
      verify_shard(*source, nullptr, std::nullopt).checked,
      ElementsAre(HasSubstr("structure"), HasSubstr("the vocabulary size is not known"),
                  HasSubstr("document ends: not checked"), HasSubstr("payload: not checked")));
  const ShardVerification result = verify_shard(*source, &tokenizer, std::nullopt);
  EXPECT_THAT(result.problems, IsEmpty());
  EXPECT_THAT(result.checked.back(), HasSubstr("tokenizer: not checked"));
}

TEST(ShardVerification, FindsIdsOutsideTheSmallestVocabulary) {
  TemporaryFolder folder;
  const std::string path = write_with_eos(folder);
  const auto source = open_token_source(path);
  const FakeTokenizer small(5, kEos, "xxh3:01");
  EXPECT_THAT(verify_shard(*source, nullptr, 99).problems,
              ElementsAre(AllOf(HasSubstr(path + ": 1 token ids are outside"),
                                HasSubstr("in document 2 at position 0: 99"))));
  EXPECT_THAT(
      verify_shard(*source, &small, 99).problems,
      ElementsAre(AllOf(HasSubstr("5 token ids"), HasSubstr("document 0 at position 2: 9"))));
}

TEST(ShardVerification, FindsAChangedPayloadAndALargestIdThatIsNotThere) {
  TemporaryFolder folder;
  const std::string path = write_with_eos(folder);
  std::string payload = read_file(path + ".bin", ExitCode::kData);
  for (size_t at = 0; at < payload.size(); ++at) {
    std::string changed = payload;
    changed[at] = static_cast<char>(changed[at] ^ 1);
    write_file(path + ".bin", changed);
    const ShardVerification result = verify_shard(*open_token_source(path), nullptr, std::nullopt);
    EXPECT_THAT(result.problems, ::testing::Contains(HasSubstr("it was changed after")));
  }
  payload[10] = 98;
  write_file(path + ".bin", payload);
  EXPECT_THAT(verify_shard(*open_token_source(path), nullptr, std::nullopt).problems,
              ElementsAre(HasSubstr("the largest id is 98, but the side file says 99"),
                          HasSubstr("has the hash")));
}

TEST(ShardVerification, FindsDocumentsThatDoNotEndInEosAlsoEmptyOnes) {
  TemporaryFolder folder;
  const std::string path =
      write_indexed(folder, "s", {{1, kEos}, {}, {2, 3}, {4, kEos}});  // eos unknown to the writer
  const auto source = open_token_source(path);
  const FakeTokenizer tokenizer(60000, kEos, "xxh3:0123456789abcdef");
  EXPECT_THAT(verify_shard(*source, nullptr, std::nullopt).problems, IsEmpty());
  EXPECT_THAT(verify_shard(*source, &tokenizer, std::nullopt).problems,
              ElementsAre(HasSubstr("2 documents do not end in eos (9), the first is document 1")));
}

TEST(ShardVerification, AShardWithoutAnIndexMayEndInTheMiddleOfADocument) {
  TemporaryFolder folder;
  const auto source =
      open_token_source(write_flat_u16(folder, "s.bin", {{1, kEos}, {2, 3}}), {.eos_id = kEos});
  EXPECT_THAT(verify_shard(*source, nullptr, 10).problems, IsEmpty());
  EXPECT_THAT(verify_shard(*source, nullptr, 9).problems,
              ElementsAre(HasSubstr("document 0 at position 1: 9")));
}

TEST(ShardVerification, FindsAnotherTokenizer) {
  TemporaryFolder folder;
  const auto source = open_token_source(write_with_eos(folder));
  const FakeTokenizer other(100, kEos, "xxh3:02");
  EXPECT_THAT(verify_shard(*source, &other, std::nullopt).problems,
              ElementsAre(AllOf(HasSubstr("'fake' (xxh3:01)"), HasSubstr("xxh3:02"))));
}

TEST(ShardVerification, AnEmptyShardIsSound) {
  TemporaryFolder folder;
  const auto source = open_token_source(write_with_eos(folder, {}));
  EXPECT_THAT(verify_shard(*source, nullptr, std::nullopt).problems, IsEmpty());
}

}  // namespace
}  // namespace swiattn
