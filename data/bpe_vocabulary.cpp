#include "data/bpe_vocabulary.h"

#include <algorithm>
#include <utility>

#include "base/hash.h"
#include "data/byte_level.h"
#include "data/nfc.h"

namespace swiattn {
namespace {

constexpr int64_t kLargestId = (1 << 22) - 1;

// A flag that may be missing or null.
bool flag(const JsonCursor& object, const std::string& key) {
  return object.has(key) && object[key].boolean();
}

bool reads_nfc(const JsonCursor& file) {
  if (!file.has("normalizer")) return false;
  const JsonCursor type = file["normalizer"]["type"];
  if (type.string() != "NFC") type.refuse("\"NFC\" (other normalizers are not implemented)");
  return true;
}

void check_model_options(const JsonCursor& model) {
  // GPT-2's own file says no type.
  if (model.has("type") && model["type"].string() != "BPE") {
    model["type"].refuse("\"BPE\" (other models are not implemented)");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.has(key) && !model[key].string().empty()) {
      model[key].refuse("null or \"\" (others are not implemented)");
    }
  }
  if (model.has("dropout") && model["dropout"].number() != 0) {
    model["dropout"].refuse("null or 0 (dropout is not implemented)");
  }
  if (flag(model, "byte_fallback")) {
    model["byte_fallback"].refuse("false (use the sentencepiece tokenizer.model instead)");
  }
}

// Bytes that occur in UTF-8.
bool occurs_in_text(int byte) { return byte < 0xF5 && byte != 0xC0 && byte != 0xC1; }

class Reader {
 public:
  Reader(const Json& json, const std::string& source)
      : file_(json, source, ExitCode::kData),
        result_(PreTokenizer(file_["pre_tokenizer"], source)) {}

  BpeVocabulary read() {
    result_.nfc = reads_nfc(file_);
    const JsonCursor model = file_["model"];
    check_model_options(model);
    read_tokens(model["vocab"]);
    check_bytes(model);
    read_merges(model["merges"]);
    if (flag(model, "ignore_merges")) note_whole_words();
    if (file_.has("added_tokens")) read_added_tokens(file_["added_tokens"]);
    result_.hash = hash();
    return std::move(result_);
  }

 private:
  void read_tokens(const JsonCursor& vocab) {
    for (const std::string& token : vocab.keys()) {
      const auto id = static_cast<int32_t>(vocab[token].integer(0, kLargestId));
      if (token.empty()) vocab.refuse("no empty token");
      if (!name_token(token, id, bytes_of_byte_level_token(token).value_or(token))) {
        vocab[token].refuse("an id that no other token has");
      }
    }
    model_tokens_ = static_cast<int64_t>(result_.ids.size());
  }

  // False when the id is taken.
  bool name_token(const std::string& token, int32_t id, std::string bytes) {
    if (static_cast<size_t>(id) >= result_.bytes.size()) result_.bytes.resize(id + 1);
    if (!result_.bytes[id].empty()) return false;
    result_.bytes[id] = std::move(bytes);
    result_.ids.emplace(token, id);
    return true;
  }

  void check_bytes(const JsonCursor& model) {
    for (const auto& [token, id] : result_.ids) {
      const auto bytes = bytes_of_byte_level_token(token);
      if (bytes && bytes->size() == 1) {
        result_.merger.set_byte_id(static_cast<unsigned char>(bytes->front()), id);
      }
    }
    if (!model.has("unk_token")) return;
    for (int byte = 0; byte < 0x100; ++byte) {
      if (occurs_in_text(byte) && result_.merger.byte_id(byte) == BpeMerger::kNoToken) {
        model["unk_token"].refuse(
            "null, since the vocabulary lacks some bytes (unknown tokens are "
            "not implemented)");
      }
    }
  }

  void read_merges(const JsonCursor& merges) {
    const size_t count = merges.size();
    result_.merger.reserve_merges(count);
    for (size_t rank = 0; rank < count; ++rank) {
      const auto [left, right] = read_pair(merges.at(rank));
      const int32_t ids[3] = {id_of(merges.at(rank), left), id_of(merges.at(rank), right),
                              id_of(merges.at(rank), left + right)};
      result_.merger.add_merge(ids[0], ids[1], static_cast<uint32_t>(rank), ids[2]);
      hasher_.update(ids, sizeof(ids));
    }
  }

  // "left right" or ["left", "right"].
  static std::pair<std::string, std::string> read_pair(const JsonCursor& merge) {
    if (merge.is_array() && merge.size() == 2) return {merge.at(0).string(), merge.at(1).string()};
    const std::string text = merge.is_string() ? merge.string() : "";
    const size_t space = text.find(' ');
    if (std::count(text.begin(), text.end(), ' ') != 1) merge.refuse("two tokens");
    return {text.substr(0, space), text.substr(space + 1)};
  }

  int32_t id_of(const JsonCursor& merge, const std::string& token) const {
    const auto found = result_.ids.find(token);
    if (found == result_.ids.end()) merge.refuse("a merge of and into tokens of the vocabulary");
    return found->second;
  }

  void note_whole_words() {
    for (const auto& [token, id] : result_.ids) {
      if (auto bytes = bytes_of_byte_level_token(token)) {
        result_.whole_words.emplace(std::move(*bytes), id);
      }
    }
  }

  void read_added_tokens(const JsonCursor& added) {
    int64_t next_id = model_tokens_;  // of the next one that the model does not know
    for (size_t i = 0; i < added.size(); ++i) {
      const JsonCursor token = added.at(i);
      for (const char* option : {"single_word", "lstrip", "rstrip"}) {
        if (flag(token, option)) token[option].refuse("false (true is not implemented)");
      }
      const std::string content = token["content"].string();
      if (content.empty()) token["content"].refuse("some text");
      const auto known = result_.ids.find(content);
      const int64_t expected = known != result_.ids.end() ? known->second : next_id;
      // The library numbers them anew, so that in another order it would give other ids.
      const auto id = static_cast<int32_t>(token["id"].integer(0, kLargestId));
      if (id != expected) token["id"].refuse(fmt::format("{}", expected));
      if (known == result_.ids.end() && !name_token(content, id, content)) {
        token["id"].refuse("an id that no other token has");
      }
      next_id = std::max<int64_t>(next_id, id + 1);
      add(content, id, flag(token, "normalized"));
    }
  }

  void add(const std::string& content, int32_t id, bool normalized) {
    std::string storage;
    const std::string text(normalized && result_.nfc ? to_nfc(content, storage) : content);
    (normalized ? result_.normalized_added : result_.raw_added).add(text, id);
    result_.bytes[id] = content;
    const size_t line_feed = text.find('\n');
    result_.added_have_spaces |= text.find(' ', 1) != text.npos || line_feed < text.size() - 1;
    const int32_t numbers[2] = {id, normalized};
    hasher_.update(numbers, sizeof(numbers));
  }

  std::string hash() {
    for (const char* key : {"normalizer", "pre_tokenizer"}) {
      const std::string text = file_.has(key) ? file_[key].value().dump() : "null";
      hasher_.update(text.data(), text.size());
    }
    for (const std::string& bytes : result_.bytes) {
      const uint64_t size = bytes.size();
      hasher_.update(&size, sizeof(size));
      hasher_.update(bytes.data(), bytes.size());
    }
    const uint64_t whole_words = result_.whole_words.size();
    hasher_.update(&whole_words, sizeof(whole_words));
    return format_hash(hasher_.digest());
  }

  JsonCursor file_;
  BpeVocabulary result_;
  Hasher hasher_;
  int64_t model_tokens_ = 0;
};

}  // namespace

BpeVocabulary read_bpe_vocabulary(const Json& file, const std::string& source) {
  return Reader(file, source).read();
}

}  // namespace swiattn
