#include "data/sentencepiece_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <sstream>

#include "data/sentencepiece_model.h"
#include "data/tokenizer.h"
#include "tests/data/tokenizer_fixture.h"

namespace swiattn {
namespace {

using Ids = std::vector<int32_t>;
using testing::HasSubstr;

class SentencepieceTokenizerTest : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Tokenizer> tokenizer_ = open_tokenizer(tokenizer_folder(GetParam()));
  Json expected_ = read_fixture(std::string(GetParam()) + "/expected.json");
  Json texts_ = read_fixture("cases.json");
};

TEST_P(SentencepieceTokenizerTest, GivesTheIdsOfThePythonLibrary) {
  for (size_t i = 0; i < texts_["cases"].size(); ++i) {
    const auto text = texts_["cases"][i].get<std::string>();
    EXPECT_EQ(tokenizer_->encode(text), expected_["cases"][i].get<Ids>()) << i << ": " << text;
  }
  for (size_t i = 0; i < texts_["random_cases"].size(); ++i) {
    const auto text = texts_["random_cases"][i].get<std::string>();
    EXPECT_EQ(checksum(tokenizer_->encode(text)), expected_["random_cases"][i].get<uint64_t>())
        << i << ": " << text;
  }
  Ids ids;
  std::istringstream novel(read_novel());
  for (std::string line; std::getline(novel, line);) {
    if (line.find("---") != line.npos) continue;  // make_fixtures.py says why
    const Ids more = tokenizer_->encode(line);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  EXPECT_EQ(ids.size(), expected_["book"]["tokens"].get<size_t>());
  EXPECT_EQ(checksum(ids), expected_["book"]["checksum"].get<uint64_t>());
}

TEST_P(SentencepieceTokenizerTest, KnowsItsTokens) {
  EXPECT_EQ(tokenizer_->eos_id(), 2);
  EXPECT_EQ(tokenizer_->token_id("</s>"), 2);
  EXPECT_EQ(tokenizer_->token_id("<unk>"), 0);
  EXPECT_EQ(tokenizer_->token_id("no such piece"), std::nullopt);
  EXPECT_THROW(tokenizer_->decode(Ids{tokenizer_->vocab_size()}), Error);
  EXPECT_THROW(tokenizer_->decode(Ids{-1}), Error);
  EXPECT_THROW(tokenizer_->encode("a\xff"), Error);
}

INSTANTIATE_TEST_SUITE_P(Stored, SentencepieceTokenizerTest, testing::Values("llama2", "unigram"),
                         [](const auto& info) { return std::string(info.param); });

TEST(SentencepieceTokenizer, DecodesToTheTextItEncoded) {
  const auto tokenizer = open_tokenizer(tokenizer_folder("llama2"));
  const Json texts = read_fixture("cases.json")["cases"];
  for (const auto& item : texts) {
    const auto text = item.get<std::string>();
    if (text.find("\u2581") != text.npos) continue;  // comes back as a space
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST(SentencepieceTokenizer, GivesTheSameIdsWhenATextIsCutWhereItAllowsCuts) {
  const auto tokenizer = open_tokenizer(tokenizer_folder("llama2"));
  const std::vector<std::string> atoms = {"a", "Z", "the",    " ",      "  ",     "\n",
                                          ".", "7", "\u00e9", "\u2581", "\u3000", "</s>"};
  std::mt19937 random(7);
  int cuts = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += atoms[random() % atoms.size()];
    const size_t cut = tokenizer->last_cut(text);
    if (cut == 0) continue;
    ++cuts;
    Ids ids = tokenizer->encode(text.substr(0, cut));
    const Ids more = tokenizer->encode_after_cut(text.substr(cut));
    ids.insert(ids.end(), more.begin(), more.end());
    EXPECT_EQ(ids, tokenizer->encode(text)) << text << " cut at " << cut;
  }
  EXPECT_GT(cuts, 200);
}

TEST(SentencepieceTokenizer, LeavesUnigramTextsWhole) {
  EXPECT_EQ(open_tokenizer(tokenizer_folder("unigram"))->last_cut("some words and more"), 0u);
}

// The wire format of protocol buffers.
std::string varint(size_t value) {
  std::string text;
  for (; value >= 0x80; value >>= 7) text.push_back(static_cast<char>((value & 0x7F) | 0x80));
  text.push_back(static_cast<char>(value));
  return text;
}
std::string field(size_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string field(size_t number, uint8_t value) { return varint(number << 3) + varint(value); }
std::string field(size_t number, float value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return varint(number << 3 | 5) + bytes;
}
std::string piece(const std::string& text, float score, uint8_t type) {
  return field(1, field(1, text) + field(2, score) + field(3, type));
}

// A charsmap whose trie has one block of units, all unused.
std::string charsmap(const std::vector<std::pair<int, uint32_t>>& units, std::string texts) {
  std::vector<uint32_t> array(256, 0x80000000u);
  for (const auto& [place, unit] : units) array[place] = unit;
  const auto size = static_cast<uint32_t>(array.size() * sizeof(uint32_t));
  std::string bytes(sizeof(size) + size, '\0');
  std::memcpy(bytes.data(), &size, sizeof(size));
  std::memcpy(bytes.data() + sizeof(size), array.data(), size);
  return bytes + texts;
}

std::string refusal(const std::string& model) {
  try {
    SentencepieceTokenizer("small", model, "small.model");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kData);
    EXPECT_THAT(error.what(), HasSubstr("small.model"));
    return error.what();
  }
  return "it was accepted";
}

TEST(SentencepieceTokenizer, RefusesDamagedAndCraftedModelsInASentence) {
  const std::string unknown = piece("<unk>", 0, 2);
  const std::string a = piece("a", -1, 1);
  const std::string good = unknown + a;
  EXPECT_EQ(refusal(good), "it was accepted");
  EXPECT_THAT(refusal(""), HasSubstr("0 pieces stand for unknown"));
  EXPECT_THAT(refusal(good + unknown), HasSubstr("stands twice"));
  EXPECT_THAT(refusal(good + piece("<u>", 0, 2)), HasSubstr("2 pieces stand for unknown"));
  EXPECT_THAT(refusal(good + piece("", 0, 1)), HasSubstr("piece 2 is empty"));
  EXPECT_THAT(refusal(good + piece("\xc3", 0, 1)), HasSubstr("piece 2"));
  EXPECT_THAT(refusal(good + piece(std::string("b\0c", 3), 0, 1)), HasSubstr("piece 2"));
  EXPECT_THAT(refusal(good + piece(std::string(5000, 'b'), 0, 1)), HasSubstr("too long"));
  EXPECT_THAT(refusal(good + piece("b", NAN, 1)), HasSubstr("not finite"));
  EXPECT_THAT(refusal(good + piece("b", 0, 9)), HasSubstr("unknown type 9"));
  EXPECT_THAT(refusal(good + piece("<0x41>", 0, 6)), HasSubstr("1 pieces stand for bytes"));
  EXPECT_THAT(refusal(good + field(2, field(3, uint8_t{4}))), HasSubstr("neither unigram nor BPE"));
  EXPECT_THAT(refusal(good + field(2, field(35, uint8_t{1}))),
              HasSubstr("0 pieces stand for bytes"));
  EXPECT_THAT(refusal(good.substr(0, good.size() - 1)), HasSubstr("damaged"));
  EXPECT_THAT(refusal(good + "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), HasSubstr("damaged"));
  EXPECT_THAT(refusal(good + std::string(11, '\xff')), HasSubstr("damaged"));
  EXPECT_THAT(refusal(good + "\x0b"), HasSubstr("damaged"));
  EXPECT_THAT(refusal("plain text, no model"), HasSubstr("damaged"));
}

TEST(SentencepieceTokenizer, RefusesNormalizersThatLeadTheLibraryAstray) {
  const std::string pieces = piece("<unk>", 0, 2) + piece("a", -1, 1);
  const auto with = [&](const std::string& map) { return pieces + field(3, field(2, map)); };
  const uint32_t leaf = 0x100;
  const uint32_t value = 0x80000000u;
  // The root's children lie at 1 ^ byte, those of 'a' at (1 ^ 'a') ^ 2 ^ byte.
  const uint32_t root = 1 << 10;
  const int a = 1 ^ 'a';
  const auto node = [](char label, uint32_t offset, uint32_t flags) {
    return offset << 10 | flags | static_cast<uint32_t>(label);
  };
  const std::string texts("b\0", 2);
  EXPECT_EQ(refusal(with(charsmap({{0, root}, {a, node('a', 2, leaf)}, {a ^ 2, value}}, texts))),
            "it was accepted");
  const std::vector<std::string> bad = {
      "abc",
      std::string("\xff\xff\xff\xff", 4) + texts,
      charsmap({}, "no zero at the end"),
      charsmap({{0, root}}, ""),
      charsmap({{0, 1000 << 10}}, texts),                     // the root points out
      charsmap({{0, root}, {a, node('a', 1000, 0)}}, texts),  // a child points out
      charsmap({{0, root}, {a, node('a', 2, leaf)}, {a ^ 2, value | 2}},
               texts),                                         // a value points out
      charsmap({{0, root}, {a, node('a', a ^ 1, 0)}}, texts),  // 'a' is its own child
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_THAT(refusal(with(bad[i])), HasSubstr("normalizer's table")) << i;
  }
}

TEST(SentencepieceTokenizer, NeverCrashesOnADamagedModel) {
  for (const char* name : {"llama2", "unigram"}) {
    const std::string whole = unpack(tokenizer_folder(name) + "/tokenizer.model");
    std::mt19937 random(13);
    for (int round = 0; round < 100; ++round) {
      std::string model = whole;
      for (unsigned i = 0; i <= random() % 4; ++i) {
        model[random() % model.size()] = static_cast<char>(random());
      }
      if (round % 5 == 0) model.resize(random() % model.size());
      try {
        const SentencepieceTokenizer tokenizer("damaged", model, "damaged.model");
        tokenizer.encode("It\u2019s caf\u00e9 e\u0301 \u00bd \uff21\ufb01 the   end\n");
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kData);
      }
    }
  }
}

}  // namespace
}  // namespace swiattn
