// The program itself, as a user runs it: exit codes, what goes to which stream, JSON that parses.
#include <sys/wait.h>

#include <cstdlib>

#include "base/json.h"
#include "base/version.h"
#include "tests/base/expect_error.h"
#include "tests/data/small_shards.h"

namespace swiattn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Outcome {
  int code;
  std::string out;
  std::string err;
  Json json() const { return parse_json(out, "standard output", ExitCode::kData); }
};

Outcome run(const std::string& arguments) {
  TemporaryFolder folder;
  const std::string command = fmt::format("'{}/swiattn-data' {} > '{}' 2> '{}'", SWIATTN_PROGRAMS,
                                          arguments, folder.file("out"), folder.file("err"));
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1,
          read_file(folder.file("out"), ExitCode::kInternal),
          read_file(folder.file("err"), ExitCode::kInternal)};
}

TEST(SwiattnData, EveryCommandHasHelpAndVersion) {
  for (const char* command : {"", "tokenize", "inspect", "verify"}) {
    const Outcome help = run(fmt::format("{} --help", command));
    EXPECT_EQ(help.code, 0) << command;
    EXPECT_THAT(help.out, HasSubstr("--help")) << command;
    EXPECT_THAT(help.out, ::testing::Not(HasSubstr("bench-stream")));
    const Outcome version = run(fmt::format("{} --version", command));
    EXPECT_EQ(version.code, 0) << command << version.err;
    EXPECT_EQ(version.out, fmt::format("swiattn-data {}\n", kVersion)) << command;
  }
}

TEST(SwiattnData, WrongFlagsReturnTwoAndSayWhich) {
  for (const auto& [arguments, expected] : {std::pair{"", "subcommand"},
                                            {"frobnicate", "subcommand"},
                                            {"inspect", "PREFIX"},
                                            {"inspect x --frobnicate", "frobnicate"},
                                            {"verify x --vocab-size 0", "--vocab-size"},
                                            {"verify x --vocab-size many", "--vocab-size"},
                                            {"inspect x --document one", "--document"},
                                            {"inspect x --device tpu", "--device"},
                                            {"inspect x y", "y"}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.err, HasSubstr(expected)) << arguments;
    EXPECT_THAT(outcome.out, IsEmpty()) << arguments;
  }
}

TEST(SwiattnData, InspectSaysWhatAShardHolds) {
  TemporaryFolder folder;
  const std::string prefix = write_indexed(folder, "s", counted_documents({3, 90, 5, 1}));
  const Outcome text = run(fmt::format("inspect '{}' --document 2 --device cpu", prefix));
  EXPECT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("4 documents, 99 tokens of type u16"),
                              HasSubstr("document 2: tokens 93 to 98, 5 tokens"),
                              HasSubstr("ids: 103 104 105 106 9\n"), HasSubstr("counting")));
  const Outcome outcome = run(fmt::format("inspect '{}' --document 1 --show 2 --json", prefix));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  const Json json = outcome.json();
  EXPECT_EQ(json["documents"], 4);
  EXPECT_EQ(json["tokens"], 99);
  EXPECT_EQ(json["token_type"], "u16");
  EXPECT_EQ(json["format"], "megatron");
  EXPECT_EQ(json["document_tokens"]["min"], 1);
  EXPECT_EQ(json["document_tokens"]["max"], 90);
  EXPECT_EQ(json["document_tokens"]["median"], 5);
  EXPECT_EQ(json["document_tokens"]["mean"], 24.75);
  EXPECT_EQ(json["side_file"]["tokenizer"], "counting");
  EXPECT_EQ(json["document"]["tokens"], 90);
  EXPECT_EQ(json["document"]["ids"], Json({13, 14}));
}

TEST(SwiattnData, InspectReadsShardsWithoutAnIndex) {
  TemporaryFolder folder;
  const std::string path = write_flat_u16(folder, "s.bin", counted_documents({3, 4}));
  EXPECT_EQ(run(fmt::format("inspect '{}'", path)).code, 3);
  const Outcome outcome = run(fmt::format("inspect '{}' --eos-id 9 --json", path));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.json()["documents"], 2);
  EXPECT_EQ(outcome.json()["format"], "flat");
}

TEST(SwiattnData, WhatCannotBeInspectedReturnsThree) {
  TemporaryFolder folder;
  const std::string prefix = write_indexed(folder, "s", counted_documents({3}));
  const std::string empty = write_indexed(folder, "empty", {});
  for (const auto& [arguments, expected] :
       {std::pair{fmt::format("inspect '{}-not'", prefix), "does not exist"},
        {fmt::format("inspect '{}' --document 1", prefix), "there is no document 1"},
        {fmt::format("inspect '{}' --document -1", prefix), "there is no document -1"},
        {fmt::format("inspect '{}' --document 0", empty), "has no documents"},
        {fmt::format("inspect '{}' --document 0 --tokenizer '{}'", prefix, folder.path()),
         "tokenizer"}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 3) << arguments;
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("swiattn-data: "), HasSubstr(expected))) << arguments;
  }
  EXPECT_EQ(run(fmt::format("inspect '{}'", empty)).code, 0);
}

TEST(SwiattnData, VerifyReturnsNoughtForASoundShardAndThreeWithSentencesForABadOne) {
  TemporaryFolder folder;
  const std::string prefix = write_indexed(folder, "s", counted_documents({3, 4}));
  const Outcome sound = run(fmt::format("verify '{}'", prefix));
  EXPECT_EQ(sound.code, 0) << sound.err;
  EXPECT_THAT(sound.out, AllOf(HasSubstr("checked structure"), HasSubstr("checked payload: hash"),
                               HasSubstr("all right")));
  EXPECT_EQ(run(fmt::format("verify '{}' --json", prefix)).json()["ok"], true);

  const Outcome bad = run(fmt::format("verify '{}' --vocab-size 15 --json", prefix));
  EXPECT_EQ(bad.code, 3);
  EXPECT_THAT(bad.err, HasSubstr("1 token ids are outside the vocabulary"));
  EXPECT_EQ(bad.json()["ok"], false);
  EXPECT_EQ(bad.json()["problems"].size(), 1);

  write_file(prefix + ".bin", "x");
  const Outcome broken = run(fmt::format("verify '{}' --json", prefix));
  EXPECT_EQ(broken.code, 3);
  EXPECT_THAT(broken.err, HasSubstr("truncated"));
  EXPECT_EQ(broken.json()["ok"], false);
}

TEST(SwiattnData, BenchStreamMeasuresTokensPerSecond) {
  TemporaryFolder folder;
  const std::string prefix = write_indexed(folder, "s", counted_documents({300, 200}));
  const Outcome outcome =
      run(fmt::format("bench-stream '{}' --sequence-length 16 --seconds 0.05", prefix));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.json()["samples_in_a_pass"], 31);
  EXPECT_GT(outcome.json()["tokens_per_second"].get<double>(), 0);
}

}  // namespace
}  // namespace swiattn
