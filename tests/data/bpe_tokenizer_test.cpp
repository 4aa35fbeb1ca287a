#include "data/bpe_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "data/tokenizer.h"
#include "tests/base/expect_error.h"
#include "tests/data/tokenizer_fixture.h"

namespace swiattn {
namespace {

using Ids = std::vector<int32_t>;

class BpeTokenizerTest : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ = open_tokenizer(tokenizer_folder(GetParam()));
  Json expected_ = read_fixture(std::string(GetParam()) + "/expected.json");
  Json texts_ = read_fixture("cases.json");
};

TEST_P(BpeTokenizerTest, GivesTheIdsOfTheTokenizersLibraryForWrittenCases) {
  for (size_t i = 0; i < texts_["cases"].size(); ++i) {
    const auto text = texts_["cases"][i].get<std::string>();
    EXPECT_EQ(tokenizer_->encode(text), expected_["cases"][i].get<Ids>()) << i << ": " << text;
  }
}

TEST_P(BpeTokenizerTest, GivesTheIdsOfTheTokenizersLibraryForRandomCharacters) {
  for (size_t i = 0; i < texts_["random_cases"].size(); ++i) {
    const auto text = texts_["random_cases"][i].get<std::string>();
    EXPECT_EQ(checksum(tokenizer_->encode(text)), expected_["random_cases"][i].get<uint64_t>())
        << i << ": " << text;
  }
}

TEST_P(BpeTokenizerTest, GivesTheIdsOfTheTokenizersLibraryForANovel) {
  const Ids ids = tokenizer_->encode(read_novel());
  EXPECT_EQ(ids.size(), expected_["book"]["tokens"].get<size_t>());
  EXPECT_EQ(checksum(ids), expected_["book"]["checksum"].get<uint64_t>());
}

TEST_P(BpeTokenizerTest, GivesTheSameIdsFromSeveralThreadsAtOnce) {
  const std::string novel = read_novel();
  std::vector<Ids> ids(4);
  {
    std::vector<std::jthread> threads;
    for (Ids& mine : ids) threads.emplace_back([&] { mine = tokenizer_->encode(novel); });
  }
  for (const Ids& mine : ids) EXPECT_EQ(mine, ids[0]);
}

// Cuts `text` wherever the tokenizer allows, in parts of at most `step` bytes where it can.
Ids encode_in_parts(const Tokenizer& tokenizer, std::string_view text, size_t step, int& cuts) {
  Ids ids;
  bool first = true;
  while (!text.empty()) {
    size_t size = step;
    size_t cut = 0;
    while (size < text.size() && (cut = tokenizer.last_cut(text.substr(0, size))) == 0) size *= 2;
    if (cut == 0) cut = text.size();
    cuts += cut < text.size();
    const auto part = text.substr(0, cut);
    const Ids more = first ? tokenizer.encode(part) : tokenizer.encode_after_cut(part);
    ids.insert(ids.end(), more.begin(), more.end());
    text.remove_prefix(cut);
    first = false;
  }
  return ids;
}

TEST_P(BpeTokenizerTest, GivesTheSameIdsWhenATextIsCutWhereItAllowsCuts) {
  int cuts = 0;
  for (const auto& list : {texts_["cases"], texts_["random_cases"]}) {
    for (const auto& item : list) {
      const auto text = item.get<std::string>();
      for (const size_t step : {1, 2, 3, 5, 8, 20}) {
        EXPECT_EQ(encode_in_parts(*tokenizer_, text, step, cuts), tokenizer_->encode(text)) << text;
      }
    }
  }
  const std::string novel = read_novel();
  EXPECT_EQ(encode_in_parts(*tokenizer_, novel, 1000, cuts), tokenizer_->encode(novel));
  const std::string name = GetParam();
  const bool knows_no_cut = name == "gpt2_prefix_space" || name == "few_bytes";
  EXPECT_EQ(cuts == 0, knows_no_cut) << cuts;
}

// Texts made of what the patterns treat differently, so that every neighbourhood of a cut occurs.
TEST_P(BpeTokenizerTest, GivesTheSameIdsWhenRandomNeighbourhoodsAreCut) {
  const std::vector<std::string> atoms = {"a",       "Z",          "'s",
                                          "'",       "7",          "12",
                                          " ",       "  ",         "\n",
                                          "\r",      "\r\n",       "\t",
                                          ".",       "-",          "\u00e9",
                                          "e\u0301", "\u0301",     "\u4e2d",
                                          "\u3000",  "\u00a0",     "\u180e",
                                          "\u0085",  "\u3002",     "\u2028",
                                          "\u0664",  "\U0001f600", "<|endoftext|>",
                                          "<|im",    "\ufeff"};
  std::mt19937 random(5);
  int cuts = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += atoms[random() % atoms.size()];
    EXPECT_EQ(encode_in_parts(*tokenizer_, text, 1, cuts), tokenizer_->encode(text)) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(Stored, BpeTokenizerTest,
                         testing::Values("gpt2", "gpt2_prefix_space", "llama3", "qwen2", "smollm2",
                                         "few_bytes"),
                         [](const auto& info) { return std::string(info.param); });

// The other two lose bytes or add a space.
TEST(BpeTokenizer, DecodesToTheTextItEncoded) {
  const Json texts = read_fixture("cases.json")["cases"];
  for (const std::string name : {"gpt2", "llama3", "qwen2", "smollm2"}) {
    const auto tokenizer = open_tokenizer(tokenizer_folder(name));
    for (const auto& item : texts) {
      const auto text = item.get<std::string>();
      const std::string once = tokenizer->decode(tokenizer->encode(text));
      if (name == "qwen2") {
        EXPECT_EQ(tokenizer->decode(tokenizer->encode(once)), once);  // in form C
      } else {
        EXPECT_EQ(once, text);
      }
    }
  }
}

TEST(BpeTokenizer, RefusesTextThatIsNotUtf8NamingTheByte) {
  const auto tokenizer = open_tokenizer(tokenizer_folder("gpt2"));
  EXPECT_EQ(sentence_of(ExitCode::kData, [&] { tokenizer->encode("good\xff"); }),
            "The text is not valid UTF-8 at byte 4.");
}

TEST(BpeTokenizer, RefusesToDecodeIdsItDoesNotHave) {
  const auto tokenizer = open_tokenizer(tokenizer_folder("gpt2"));
  for (const int32_t id : {-1, tokenizer->vocab_size(), 1 << 30}) {
    EXPECT_THROW(tokenizer->decode(Ids{id}), Error) << id;
  }
}

TEST(BpeTokenizer, NeverCrashesOnRandomBytes) {
  const auto tokenizer = open_tokenizer(tokenizer_folder("qwen2"));
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() >> 9);
    if (round % 2) {
      for (char& byte : bytes) byte &= 0x7F;
    }
    const size_t cut = tokenizer->last_cut(bytes);
    EXPECT_TRUE(cut < bytes.size() || cut == 0);
    try {
      tokenizer->encode(bytes);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kData);
    }
  }
}

TEST(BpeTokenizer, TakesAMegabyteOfOneCharacterInItsStride) {
  const auto tokenizer = open_tokenizer(tokenizer_folder("llama3"));
  for (const char c : {' ', '\n', 'a', '-', '7'}) {
    const std::string text(1 << 20, c);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << c;
  }
}

}  // namespace
}  // namespace swiattn
