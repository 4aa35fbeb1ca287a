#include "data/llmc_shard.h"

#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kGpt2 = 20240520;
constexpr int32_t kLlama3 = 20240801;

TEST(LlmcShard, ReadsBothMagicNumbersAndVersions) {
  const Documents documents = {{1, 2, kEos}, {3, kEos}, {4}};
  for (int32_t magic : {kGpt2, kLlama3}) {
    for (int32_t version : {1, 7}) {
      TemporaryFolder folder;
      const auto source = open_token_source(write_llmc(folder, "s.bin", documents, magic, version),
                                            {.eos_id = kEos});
      EXPECT_EQ(source->format(), "llm.c");
      EXPECT_EQ(source->token_type(), magic == kGpt2 ? TokenType::kU16 : TokenType::kU32);
      EXPECT_EQ(read_all(*source), joined(documents));
      EXPECT_EQ(source->documents(), 3);
      EXPECT_EQ(source->document(1).begin, 3);
    }
  }
}

TEST(LlmcShard, RefusesDamagedFilesNamingThem) {
  TemporaryFolder folder;
  const std::string path = write_llmc(folder, "s.bin", {{1, 2, 3}}, kGpt2, 1);
  const std::string whole = read_file(path, ExitCode::kData);
  const auto refusal = [&path](const std::string& bytes) {
    write_file(path, bytes);
    return sentence_of(ExitCode::kData, [&] { open_token_source(path, {.eos_id = 3}); });
  };
  EXPECT_THAT(refusal(whole.substr(0, 4)), HasSubstr(path + ": truncated: 4 bytes"));
  EXPECT_THAT(refusal(whole.substr(0, 1023)), HasSubstr("truncated: 1023 bytes"));
  EXPECT_THAT(refusal(whole.substr(0, 1024)), HasSubstr("counts 3 tokens of 2 bytes, but 0 bytes"));
  EXPECT_THAT(refusal(whole.substr(0, 1029)), HasSubstr("but 5 bytes follow"));
  EXPECT_THAT(refusal(whole + "x"), HasSubstr("but 7 bytes follow"));
  std::string negative = whole;
  negative.replace(8, 4, bytes_of(int32_t{-3}));
  EXPECT_THAT(refusal(negative), HasSubstr("counts -3 tokens"));
  std::string version = whole;
  version.replace(4, 4, bytes_of(int32_t{2}));
  EXPECT_THAT(refusal(version), HasSubstr("version 2 is not known"));
  std::string other_type = whole;
  other_type.replace(0, 4, bytes_of(kLlama3));
  EXPECT_THAT(refusal(other_type), HasSubstr("3 tokens of 4 bytes, but 6 bytes follow"));
  write_file(path, whole);
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(path); }),
              HasSubstr("the id of the token that ends a document must be known"));
}

}  // namespace
}  // namespace swiattn
