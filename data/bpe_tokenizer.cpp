#include "data/bpe_tokenizer.h"

#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "data/nfc.h"
#include "data/word_cache.h"

namespace swiattn {

struct BpeTokenizer::Scratch {
  Regex::Match match;
  WordCache cache;
  std::string normalized;
  std::string prefixed;
};

// Takes a text apart, level by level, down to pre-tokens.
class BpeTokenizer::Encoder {
 public:
  Encoder(const BpeVocabulary& vocabulary, Scratch& scratch)
      : vocabulary_(vocabulary), scratch_(scratch) {}

  std::vector<int32_t> encode(std::string_view text) {
    ids_.reserve(text.size() / 3);
    around(vocabulary_.raw_added, text, [this](std::string_view between) { normalize(between); });
    return std::move(ids_);
  }

 private:
  // Adds the added tokens that are found in `text`, and gives what lies between them to `rest`.
  template <class Rest>
  void around(const AddedTokens& added, std::string_view text, const Rest& rest) {
    size_t done = 0;
    for (auto found = added.find(text, 0); found.end > 0; found = added.find(text, done)) {
      if (found.begin > done) rest(text.substr(done, found.begin - done));
      ids_.push_back(found.id);
      done = found.end;
    }
    if (done < text.size()) rest(text.substr(done));
  }

  void normalize(std::string_view text) {
    if (vocabulary_.nfc) text = to_nfc(text, scratch_.normalized);
    around(vocabulary_.normalized_added, text,
           [this](std::string_view between) { split(between); });
  }

  void split(std::string_view text) {
    if (vocabulary_.pre_tokenizer.add_prefix_space() && !text.starts_with(' ')) {
      scratch_.prefixed = ' ';
      scratch_.prefixed += text;
      text = scratch_.prefixed;
    }
    vocabulary_.pre_tokenizer.split(text, scratch_.match,
                                    [this](std::string_view word) { encode_word(word); });
  }

  void encode_word(std::string_view word) {
    if (word.size() > WordCache::kLongestWord) return merge(word);
    const WordCache::Key key = WordCache::key_of(word);
    if (scratch_.cache.append(key, ids_)) return;
    const size_t begin = ids_.size();
    merge(word);
    scratch_.cache.remember(key, std::span(ids_).subspan(begin));
  }

  void merge(std::string_view word) {
    if (!vocabulary_.whole_words.empty()) {
      const auto found = vocabulary_.whole_words.find(word);
      if (found != vocabulary_.whole_words.end()) return ids_.push_back(found->second);
    }
    vocabulary_.merger.encode(word, ids_);
  }

  const BpeVocabulary& vocabulary_;
  Scratch& scratch_;
  std::vector<int32_t> ids_;
};

BpeTokenizer::BpeTokenizer(std::string name, BpeVocabulary vocabulary)
    : Tokenizer(std::move(name), vocabulary.hash), vocabulary_(std::move(vocabulary)) {}

BpeTokenizer::~BpeTokenizer() = default;

std::vector<int32_t> BpeTokenizer::encode(std::string_view text) const {
  const size_t valid = valid_utf8_prefix(text);
  if (valid < text.size()) {
    fail(ExitCode::kData, "The text is not valid UTF-8 at byte {}.", valid);
  }
  std::unique_ptr<Scratch> scratch = borrow_scratch();
  std::vector<int32_t> ids = Encoder(vocabulary_, *scratch).encode(text);
  return_scratch(std::move(scratch));
  return ids;
}

std::string BpeTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || vocabulary_.bytes[id].empty()) {
      fail(ExitCode::kData, "{} has no token with the id {}.", name(), id);
    }
    text += vocabulary_.bytes[id];
  }
  return text;
}

size_t BpeTokenizer::last_cut(std::string_view text) const {
  return vocabulary_.added_have_spaces ? 0 : vocabulary_.pre_tokenizer.last_cut(text);
}

std::optional<int32_t> BpeTokenizer::token_id(std::string_view token) const {
  const auto found = vocabulary_.ids.find(token);
  if (found == vocabulary_.ids.end()) return std::nullopt;
  return found->second;
}

std::unique_ptr<BpeTokenizer::Scratch> BpeTokenizer::borrow_scratch() const {
  const std::lock_guard lock(mutex_);
  if (idle_scratch_.empty()) return std::make_unique<Scratch>();
  std::unique_ptr<Scratch> scratch = std::move(idle_scratch_.back());
  idle_scratch_.pop_back();
  return scratch;
}

void BpeTokenizer::return_scratch(std::unique_ptr<Scratch> scratch) const {
  const std::lock_guard lock(mutex_);
  idle_scratch_.push_back(std::move(scratch));
}

}  // namespace swiattn
