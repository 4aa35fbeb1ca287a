#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <random>

#include "data/bpe_tokenizer.h"
#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"
#include "tests/data/tokenizer_fixture.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class OpenTokenizerTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_.file(name); }
  void write(const std::string& name, const std::string& text) { write_file(path(name), text); }
  void copy(const std::string& from, const std::string& to) {
    fs::copy_file(tokenizer_folder(from), path(to), fs::copy_options::overwrite_existing);
  }
  // The sentence with which open_tokenizer() refuses.
  std::string refusal(const std::string& name) {
    return sentence_of(ExitCode::kData, [&] { open_tokenizer(path(name)); });
  }
  // The same for a stored tokenizer.json with a change.
  std::string refusal_of(const std::function<void(Json&)>& change) {
    Json json = read_fixture("smollm2/tokenizer.json");
    change(json);
    write("tokenizer.json", json.dump());
    return refusal("tokenizer.json");
  }

  TemporaryFolder folder_;
};

TEST_F(OpenTokenizerTest, TakesFolderFileAndTrailingSlash) {
  const auto folder = open_tokenizer(tokenizer_folder("smollm2"));
  EXPECT_EQ(folder->name(), "smollm2");
  EXPECT_EQ(open_tokenizer(tokenizer_folder("smollm2/"))->name(), "smollm2");
  const auto file = open_tokenizer(tokenizer_folder("smollm2/tokenizer.json"));
  EXPECT_EQ(file->name(), "tokenizer.json");
  EXPECT_EQ(file->hash(), folder->hash());
  EXPECT_EQ(file->eos_id(), 1000);
  EXPECT_EQ(folder->eos_id(), 1000);
  EXPECT_EQ(folder->vocab_size(), 1003);
  EXPECT_EQ(folder->token_id("<|im_end|>"), 1002);
  EXPECT_EQ(folder->token_id("no such token"), std::nullopt);
}

TEST_F(OpenTokenizerTest, FindsEosInEachOfTheFilesAndInTheirOrder) {
  copy("smollm2/tokenizer.json", "tokenizer.json");
  EXPECT_EQ(open_tokenizer(folder_.path())->eos_id(), std::nullopt);
  write("special_tokens_map.json", R"({"eos_token": {"content": "<|im_end|>", "lstrip": false}})");
  EXPECT_EQ(open_tokenizer(folder_.path())->eos_id(), 1002);
  write("generation_config.json", R"({"eos_token_id": [7, 8]})");
  EXPECT_EQ(open_tokenizer(folder_.path())->eos_id(), 7);
  write("config.json", R"({"eos_token_id": 9})");
  EXPECT_EQ(open_tokenizer(folder_.path())->eos_id(), 9);
  write("tokenizer_config.json", R"({"eos_token": null})");
  EXPECT_EQ(open_tokenizer(folder_.path())->eos_id(), 9);
  write("tokenizer_config.json", R"({"eos_token": "<|im_start|>"})");
  EXPECT_EQ(open_tokenizer(folder_.path())->eos_id(), 1001);
}

TEST_F(OpenTokenizerTest, RefusesAnEosThatTheVocabularyLacks) {
  copy("smollm2/tokenizer.json", "tokenizer.json");
  write("tokenizer_config.json", R"({"eos_token": "</s>"})");
  EXPECT_THAT(refusal("tokenizer.json"), HasSubstr("tokenizer_config.json: eos_token"));
  write("tokenizer_config.json", "{}");
  write("config.json", R"({"eos_token_id": 1003})");
  EXPECT_THAT(refusal("tokenizer.json"), HasSubstr("config.json: eos_token_id"));
}

TEST_F(OpenTokenizerTest, TakesTheSentencepieceModelWhereTheJsonWasConvertedFromIt) {
  Json json = read_fixture("smollm2/tokenizer.json");
  json["model"]["byte_fallback"] = true;
  write("tokenizer.json", json.dump());
  EXPECT_THAT(refusal("tokenizer.json"), HasSubstr("byte_fallback"));
  copy("llama2/tokenizer.model", "tokenizer.model");
  EXPECT_EQ(open_tokenizer(folder_.path())->token_id("<0x0A>"), 13);
  copy("smollm2/tokenizer.json", "tokenizer.json");
  EXPECT_EQ(open_tokenizer(folder_.path())->token_id("<|im_end|>"), 1002);
}

TEST_F(OpenTokenizerTest, HashTellsTokenizersApartButNotFormatting) {
  const Json original = read_fixture("smollm2/tokenizer.json");
  const auto hash_with = [&](const std::function<void(Json&)>& change, int indent) {
    Json json = original;
    change(json);
    write("tokenizer.json", json.dump(indent));
    return open_tokenizer(path("tokenizer.json"))->hash();
  };
  const std::string hash = hash_with([](Json&) {}, 4);
  EXPECT_EQ(hash, open_tokenizer(tokenizer_folder("smollm2"))->hash());
  EXPECT_EQ(hash, hash_with([](Json& json) { json["truncation"] = {{"max_length", 5}}; }, 0));
  const auto merges_as_text = [](Json& json) {
    for (auto& merge : json["model"]["merges"]) {
      merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    }
  };
  EXPECT_EQ(hash, hash_with(merges_as_text, 1));
  const std::vector<std::function<void(Json&)>> changes = {
      [](Json& json) { std::swap(json["model"]["merges"][5], json["model"]["merges"][300]); },
      [](Json& json) { std::swap(json["model"]["vocab"]["a"], json["model"]["vocab"]["b"]); },
      [](Json& json) { json["model"]["ignore_merges"] = true; },
      [](Json& json) {
        json["normalizer"] = {{"type", "NFC"}};
      },
      [](Json& json) { json["pre_tokenizer"]["pretokenizers"].erase(0); },
      [](Json& json) { json["added_tokens"][0]["normalized"] = true; },
      [](Json& json) { json["added_tokens"].erase(2); }};
  for (size_t i = 0; i < changes.size(); ++i) EXPECT_NE(hash, hash_with(changes[i], 0)) << i;
}

TEST_F(OpenTokenizerTest, RefusesPathsThatAreNoTokenizer) {
  EXPECT_THAT(refusal("missing"), HasSubstr("does not exist"));
  EXPECT_THAT(refusal(""), HasSubstr("neither tokenizer.json nor tokenizer.model"));
  write("vocab.txt", "a b c");
  EXPECT_THAT(refusal("vocab.txt"), HasSubstr("neither a folder nor a .json or .model file"));
  write("tokenizer.json", "{");
  EXPECT_THAT(refusal("tokenizer.json"), HasSubstr("not valid JSON"));
  write("tokenizer.json", "[]");
  EXPECT_THAT(refusal("tokenizer.json"), HasSubstr("tokenizer.json"));
}

TEST_F(OpenTokenizerTest, RefusesByNameWhatIsNotImplemented) {
  struct Case {
    const char* named;
    std::function<void(Json&)> change;
  };
  const auto pre = [](const char* text) {
    return [text](Json& json) { json["pre_tokenizer"] = Json::parse(text); };
  };
  const auto split = [](const char* regex) {
    return [regex](Json& json) {
      json["pre_tokenizer"]["pretokenizers"][0] = {
          {"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
    };
  };
  const std::vector<Case> cases = {
      {"WordPiece", [](Json& json) { json["model"]["type"] = "WordPiece"; }},
      {"model.dropout", [](Json& json) { json["model"]["dropout"] = 0.1; }},
      {"model.byte_fallback", [](Json& json) { json["model"]["byte_fallback"] = true; }},
      {"continuing_subword_prefix",
       [](Json& json) { json["model"]["continuing_subword_prefix"] = "##"; }},
      {"end_of_word_suffix", [](Json& json) { json["model"]["end_of_word_suffix"] = "</w>"; }},
      {"NFKC",
       [](Json& json) {
         json["normalizer"] = {{"type", "NFKC"}};
       }},
      {"Sequence",
       [](Json& json) {
         json["normalizer"] = {{"type", "Sequence"}};
       }},
      {"Metaspace", pre(R"({"type": "Metaspace"})")},
      {"ByteLevel", pre(R"({"type": "Digits", "individual_digits": true})")},
      {"nothing after ByteLevel", pre(R"({"type": "Sequence", "pretokenizers": [
               {"type": "ByteLevel", "add_prefix_space": false}, {"type": "Digits"}]})")},
      {"add_prefix_space", pre(R"({"type": "Sequence", "pretokenizers": [
               {"type": "Digits"}, {"type": "ByteLevel", "add_prefix_space": true}]})")},
      {"MergedWithPrevious", pre(R"({"type": "Split", "pattern": {"Regex": "a"},
                                     "behavior": "MergedWithPrevious"})")},
      {"Regex", pre(R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Isolated"})")},
      {"'\\w'", split("\\w+")},
      {"'\\h'", split("\\h")},
      {"'(?<='", split("(?<=a)b")},
      {"'^'", split("^a")},
      {"'}+'", split("\\p{N}{1,3}+")},
      {"'[b'", split("[a[b]]")},
      {"'&&'", split("[a&&b]")},
      {"\\p{Han}", split("\\p{Han}+")},
      {"empty string", split("a*")},
      {"does not compile", split("(a")},
      {"added_tokens[1].lstrip", [](Json& json) { json["added_tokens"][1]["lstrip"] = true; }},
      {"added_tokens[1].rstrip", [](Json& json) { json["added_tokens"][1]["rstrip"] = true; }},
      {"added_tokens[1].single_word",
       [](Json& json) { json["added_tokens"][1]["single_word"] = true; }}};
  for (const Case& item : cases) EXPECT_THAT(refusal_of(item.change), HasSubstr(item.named));
}

TEST_F(OpenTokenizerTest, RefusesContradictions) {
  struct Case {
    const char* named;
    std::function<void(Json&)> change;
  };
  const std::vector<Case> cases = {
      {"model.vocab", [](Json& json) { json["model"].erase("vocab"); }},
      {"model.vocab", [](Json& json) { json["model"]["vocab"] = Json::array(); }},
      {"model.vocab.a", [](Json& json) { json["model"]["vocab"]["a"] = -1; }},
      {"model.vocab.a", [](Json& json) { json["model"]["vocab"]["a"] = 1.5; }},
      {"model.vocab.a", [](Json& json) { json["model"]["vocab"]["a"] = 1LL << 40; }},
      {"an id that no other token has", [](Json& json) { json["model"]["vocab"]["a"] = 300; }},
      {"no empty token", [](Json& json) { json["model"]["vocab"][""] = 1003; }},
      {"model.merges[0]", [](Json& json) { json["model"]["merges"][0] = {"a"}; }},
      {"model.merges[0]", [](Json& json) { json["model"]["merges"][0] = "a b c"; }},
      {"model.merges[0]",
       [](Json& json) {
         json["model"]["merges"][0] = {"a", "<"};
       }},
      {"model.merges", [](Json& json) { json["model"]["merges"] = "a b"; }},
      {"added_tokens[0].id", [](Json& json) { json["added_tokens"][0]["id"] = 5; }},
      {"added_tokens[0].id", [](Json& json) { json["added_tokens"][0]["id"] = 1007; }},
      {"added_tokens[0].content", [](Json& json) { json["added_tokens"][0]["content"] = ""; }},
      {"unk_token",
       [](Json& json) {
         json["model"]["unk_token"] = "<|endoftext|>";
         json["model"]["vocab"].erase("\u0103");
         json["model"]["merges"] = Json::array();
         json["added_tokens"] = Json::array();
       }},
  };
  for (const Case& item : cases) EXPECT_THAT(refusal_of(item.change), HasSubstr(item.named));
}

// Damages a stored file somewhere, also inside of words and numbers.
std::string damage(std::string text, std::mt19937& random) {
  const std::string_view bytes =
      "{}[]\",:0123456789-.eE\\ \n\x80\xff"
      "anuftr";
  for (unsigned i = 0; i <= random() % 3; ++i) {
    const size_t at = random() % text.size();
    switch (random() % 4) {
      case 0:
        text[at] = bytes[random() % bytes.size()];
        break;
      case 1:
        text.erase(at, random() % 50);
        break;
      case 2:
        text.insert(at, 1, bytes[random() % bytes.size()]);
        break;
      default:
        text.insert(at, text.substr(random() % text.size(), random() % 50));
    }
    if (text.empty()) text = " ";
  }
  return text;
}

TEST_F(OpenTokenizerTest, NeverCrashesOnADamagedTokenizerJson) {
  // Without most of the vocabulary, so that damage often hits something else.
  Json json = read_fixture("qwen2/tokenizer.json");
  json["model"]["merges"] = Json::array();
  for (auto& token : json["added_tokens"]) token["id"] = token["id"].get<int>() - 744;
  Json vocab;
  for (const auto& [token, id] : json["model"]["vocab"].items()) {
    if (id < 256) vocab[token] = id;
  }
  json["model"]["vocab"] = vocab;
  const std::string whole = json.dump();
  std::mt19937 random(3);
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    const std::string text = damage(whole, random);
    try {
      const Json parsed = parse_json(text, "damaged", ExitCode::kData);
      const BpeTokenizer tokenizer("damaged", read_bpe_vocabulary(parsed, "damaged"));
      tokenizer.encode("caf\u00e9 e\u0301 <|endoftext|> 12 it's\n\nend");
      ++accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kData) << error.what();
    }
  }
  EXPECT_GT(accepted, 10);
  EXPECT_LT(accepted, 2900);
}

}  // namespace
}  // namespace swiattn
