#include "data/token_source.h"

#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;

TEST(TokenSource, APrefixAndEitherOfItsFilesOpenTheSamePair) {
  TemporaryFolder folder;
  const std::string prefix = write_indexed(folder, "s", {{1, 2, 9}});
  for (const char* suffix : {"", ".bin", ".idx"}) {
    const auto source = open_token_source(prefix + suffix);
    EXPECT_EQ(source->format(), "megatron");
    EXPECT_EQ(source->name(), prefix + suffix);
    EXPECT_EQ(source->tokens(), 3);
    EXPECT_EQ(source->info().tokenizer_name, "counting");
  }
}

TEST(TokenSource, RefusesAPathWithoutAShardSayingWhatWasLookedFor) {
  TemporaryFolder folder;
  const std::string prefix = folder.file("s");
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(prefix); }),
              HasSubstr("the file '" + prefix + ".bin' does not exist"));
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(prefix + ".bin"); }),
              HasSubstr("the file '" + prefix + ".bin' does not exist"));
  sentence_of(ExitCode::kData, [&] { open_token_source(folder.path()); });
  sentence_of(ExitCode::kData, [&] { open_token_source(""); });
  write_flat_u16(folder, "s.bin", {{1, 2}});
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { open_token_source(prefix); }),
              HasSubstr("there is no '" + prefix + ".idx' beside"));
}

}  // namespace
}  // namespace swiattn
