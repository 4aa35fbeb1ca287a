#include "data/shard_info.h"

#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ShardInfo parsed(const std::string& text) {
  TemporaryFolder folder;
  write_file(folder.file("s.json"), text);
  return read_shard_info(folder.file("s.json"));
}

TEST(ShardInfo, IsReadAsItWasWritten) {
  const ShardInfo info{.tokenizer_name = "a \"name\" é",
                       .tokenizer_hash = "xxh3:00112233aabbccdd",
                       .vocab_size = 49152,
                       .eos_id = 2,
                       .token_type = TokenType::kU16,
                       .largest_id = 49151,
                       .tokens = int64_t{1} << 60,
                       .documents = 3,
                       .payload_hash = "xxh3:1"};
  const ShardInfo found = parsed(format_shard_info(info));
  EXPECT_EQ(found.tokenizer_name, info.tokenizer_name);
  EXPECT_EQ(found.tokenizer_hash, info.tokenizer_hash);
  EXPECT_EQ(found.vocab_size, info.vocab_size);
  EXPECT_EQ(found.eos_id, info.eos_id);
  EXPECT_EQ(found.token_type, info.token_type);
  EXPECT_EQ(found.largest_id, info.largest_id);
  EXPECT_EQ(found.tokens, info.tokens);
  EXPECT_EQ(found.documents, info.documents);
  EXPECT_EQ(found.payload_hash, info.payload_hash);
}

TEST(ShardInfo, IsWrittenWithANameThatIsNotUtf8) {
  EXPECT_EQ(parsed(format_shard_info({.tokenizer_name = "a\xe9"})).tokenizer_name, "a\ufffd");
}

TEST(ShardInfo, EveryKeyIsOptionalAndForeignKeysAreIgnored) {
  const ShardInfo info = parsed(R"({"made_by": "somebody", "eos_id": null})");
  EXPECT_EQ(format_shard_info(info), format_shard_info({}));
  TemporaryFolder folder;
  EXPECT_EQ(format_shard_info(read_side_file(folder.file("none"))), format_shard_info({}));
}

TEST(ShardInfo, RefusesWrongValuesNamingFileAndKey) {
  for (const auto& [text, key] : {std::pair{R"([])", "s.json"},
                                  {R"({"eos_id": -1})", "eos_id"},
                                  {R"({"eos_id": 4294967296})", "eos_id"},
                                  {R"({"eos_id": 1.5})", "eos_id"},
                                  {R"({"eos_id": "2"})", "eos_id"},
                                  {R"({"vocab_size": 0})", "vocab_size"},
                                  {R"({"tokens": -1})", "tokens"},
                                  {R"({"documents": 1e300})", "documents"},
                                  {R"({"token_type": "f32"})", "token_type"},
                                  {R"({"token_type": 8})", "token_type"},
                                  {R"({"tokenizer": 3})", "tokenizer"},
                                  {R"({"payload_hash": []})", "payload_hash"},
                                  {R"({"tokens": 1, "tokens": 2})", "tokens"},
                                  {R"({"tokens": )", "s.json"},
                                  {"", "s.json"}}) {
    EXPECT_THAT(sentence_of(ExitCode::kData, [&] { parsed(text); }),
                AllOf(HasSubstr("s.json"), HasSubstr(key)))
        << text;
  }
}

TEST(ShardInfo, AnotherTokenizerIsRefusedAndAnUnknownOneAccepted) {
  const ShardInfo info{.tokenizer_name = "mine", .tokenizer_hash = "xxh3:01"};
  EXPECT_NO_THROW(require_tokenizer(info, "shard", "xxh3:01"));
  EXPECT_NO_THROW(require_tokenizer({}, "shard", "xxh3:01"));
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { require_tokenizer(info, "shard", "xxh3:02"); }),
              AllOf(HasSubstr("shard"), HasSubstr("'mine' (xxh3:01)"), HasSubstr("xxh3:02")));
}

}  // namespace
}  // namespace swiattn
