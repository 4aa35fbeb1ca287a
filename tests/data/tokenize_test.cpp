#include "data/tokenize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "data/indexed_dataset.h"
#include "data/shard_info.h"
#include "data/tokenizer.h"
#include "tests/base/expect_error.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"
#include "tests/data/tokenizer_fixture.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;

class TokenizeTest : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& bytes) {
    const std::string path = folder_.file(name);
    fs::create_directories(fs::path(path).parent_path());
    write_file(path, bytes);
    return path;
  }
  TokenizeOptions options(std::vector<std::string> inputs) const {
    TokenizeOptions options;
    options.inputs = std::move(inputs);
    options.tokenizer = tokenizer_folder("smollm2");
    options.output = folder_.file("out/shard");
    options.workers = 3;
    return options;
  }
  std::string refusal(const TokenizeOptions& options) {
    const std::string sentence = sentence_of(ExitCode::kData, [&] { tokenize(options, log_); });
    EXPECT_FALSE(fs::exists(folder_.file("out")) && !fs::is_empty(folder_.file("out")));
    return sentence;
  }
  // The documents of the shard that was written.
  std::vector<Ids> documents() const {
    const auto shard = std::make_unique<IndexedDataset>("shard", folder_.file("out/shard"));
    std::vector<Ids> documents;
    for (int64_t i = 0; i < shard->documents(); ++i) {
      const TokenRange range = shard->document(i);
      documents.emplace_back(range.size());
      shard->read(range.begin, documents.back());
    }
    return documents;
  }
  Ids with_eos(const std::string& text) const {
    Ids ids = tokenizer_->encode(text);
    ids.push_back(*tokenizer_->eos_id());
    return ids;
  }

  TemporaryFolder folder_;
  RecordingLog log_;
  std::unique_ptr<Tokenizer> tokenizer_ = open_tokenizer(tokenizer_folder("smollm2"));
};

TEST_F(TokenizeTest, WritesDocumentsInInputOrderWhateverTheNumberOfWorkers) {
  const std::string novel = read_novel();
  std::string lines;
  std::vector<Ids> expected = {with_eos(novel), with_eos("")};
  for (size_t i = 0; i < 3000; ++i) {
    const std::string text = novel.substr(i * 37, i % 300) + "\u00e9\"\\\n";
    lines += Json{{"text", text}, {"id", i}}.dump() + (i % 2 ? "\r\n" : "\n");
    if (i % 100 == 0) lines += "\n  \n";
    expected.push_back(with_eos(text));
  }
  const std::vector<std::string> inputs = {write("novel.txt", novel), write("empty.txt", ""),
                                           write("lines.jsonl", lines)};
  for (const int workers : {1, 2, 7}) {
    TokenizeOptions with_workers = options(inputs);
    with_workers.workers = workers;
    const TokenizeResult result = tokenize(with_workers, log_);
    EXPECT_EQ(documents(), expected) << workers;
    EXPECT_EQ(result.documents, 3002);
    EXPECT_EQ(result.bytes, static_cast<int64_t>(novel.size() + lines.size()));
    int64_t tokens = 0;
    for (const Ids& ids : expected) tokens += static_cast<int64_t>(ids.size());
    EXPECT_EQ(result.tokens, tokens);
  }
}

TEST_F(TokenizeTest, TellsTheShardWhichTokenizerMadeIt) {
  TokenizeOptions with_eos = options({write("a.txt", "some words")});
  with_eos.eos = "<|im_end|>";
  EXPECT_EQ(tokenize(with_eos, log_).eos_id, 1002);
  const ShardInfo info = read_shard_info(folder_.file("out/shard.json"));
  EXPECT_EQ(info.tokenizer_name, "smollm2");
  EXPECT_EQ(info.tokenizer_hash, tokenizer_->hash());
  EXPECT_EQ(info.vocab_size, 1003);
  EXPECT_EQ(info.eos_id, 1002);
  EXPECT_EQ(documents()[0].back(), 1002);
}

TEST_F(TokenizeTest, NeverWritesABosAlsoNotWithSentencepiece) {
  TokenizeOptions llama = options({write("a.txt", "some words")});
  llama.tokenizer = tokenizer_folder("llama2");
  tokenize(llama, log_);
  Ids expected = open_tokenizer(llama.tokenizer)->encode("some words");
  expected.push_back(2);
  EXPECT_EQ(documents(), std::vector<Ids>{expected});
}

TEST_F(TokenizeTest, CutsALongSentencepieceDocumentWithoutATrace) {
  TokenizeOptions llama = options({write("novel.txt", read_novel())});
  llama.tokenizer = tokenizer_folder("llama2");
  tokenize(llama, log_);
  Ids expected = open_tokenizer(llama.tokenizer)->encode(read_novel());
  expected.push_back(2);
  EXPECT_EQ(documents(), std::vector<Ids>{expected});
}

TEST_F(TokenizeTest, ReadsTheKeyThatIsAskedFor) {
  TokenizeOptions with_key = options({write("a.jsonl", R"({"text": 1, "content": "some words"})")});
  with_key.key = "content";
  tokenize(with_key, log_);
  EXPECT_EQ(documents(), std::vector<Ids>{with_eos("some words")});
}

TEST_F(TokenizeTest, RefusesLinesWithoutTextNamingFileAndLine) {
  for (const char* line :
       {R"({"content": "a"})", R"({"text": 5})", R"({"text": null})", R"(["a"])", R"("a")",
        R"({"text": "a)", R"({"text": "a", "text": "b"})", "{} {}", R"({"text": "\ud800"})"}) {
    const std::string path =
        write("a.jsonl", "{\"text\": \"good\"}\n\n" + std::string(line) + "\n{\"text\": \"good\"}");
    EXPECT_THAT(refusal(options({path})), HasSubstr(path + ":3:")) << line;
  }
}

TEST_F(TokenizeTest, RefusesInvalidUtf8NamingFileAndByteUnlessItMayReplaceIt) {
  // Far behind the first chunk.
  std::string text;
  while (text.size() < 1000000) text += "some words, \n";
  const std::string good_end = "\xf0\x9f\x98\x80 end";
  const std::string path = write("a.txt", text + "bad\xff\xe2\x82" + good_end);
  EXPECT_THAT(refusal(options({path})),
              HasSubstr(fmt::format("{} is not valid UTF-8 at byte {}.", path, text.size() + 3)));
  TokenizeOptions replacing = options({path});
  replacing.replace_invalid_utf8 = true;
  tokenize(replacing, log_);
  EXPECT_EQ(documents(), std::vector<Ids>{with_eos(text + "bad\ufffd\ufffd" + good_end)});
}

TEST_F(TokenizeTest, AnErrorStopsAllAndTheFirstInInputOrderIsNamed) {
  std::vector<std::string> paths;
  for (int i = 0; i < 60; ++i) {
    paths.push_back(
        write(fmt::format("{:02}.txt", i), i == 20 || i == 25 || i > 50 ? "\xff" : "a"));
  }
  for (int round = 0; round < 20; ++round) {
    EXPECT_THAT(refusal(options(paths)), HasSubstr("20.txt"));
  }
  write("20.txt.gz", "no gzip");
  paths[20] = folder_.file("20.txt.gz");
  EXPECT_THAT(refusal(options(paths)), HasSubstr("20.txt.gz cannot be unpacked"));
}

TEST_F(TokenizeTest, AFailureLeavesAnEarlierShardAsItWas) {
  tokenize(options({write("good.txt", "some words")}), log_);
  const auto before = documents();
  EXPECT_THAT(
      sentence_of(ExitCode::kData, [&] { tokenize(options({write("bad.txt", "\xff")}), log_); }),
      HasSubstr("bad.txt"));
  EXPECT_EQ(documents(), before);
}

TEST_F(TokenizeTest, RefusesToWorkWithoutEosOrDocuments) {
  fs::create_directories(folder_.file("tokenizer"));
  fs::copy_file(tokenizer_folder("smollm2/tokenizer.json"),
                folder_.file("tokenizer/tokenizer.json"));
  TokenizeOptions no_eos = options({write("a.txt", "some words")});
  no_eos.tokenizer = folder_.file("tokenizer");
  EXPECT_THAT(refusal(no_eos), HasSubstr("--eos"));
  no_eos.eos = "</s>";
  EXPECT_THAT(refusal(no_eos), HasSubstr("no token \"</s>\""));
  EXPECT_THAT(refusal(options({write("a.jsonl", "\n\n")})), HasSubstr("hold no document"));
}

}  // namespace
}  // namespace swiattn
