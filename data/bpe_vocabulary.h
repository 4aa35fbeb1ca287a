// What a Hugging Face tokenizer.json with a byte-level BPE model says, checked and taken apart.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/json.h"
#include "data/added_tokens.h"
#include "data/bpe_merger.h"
#include "data/pre_tokenizer.h"

namespace swiattn {

struct BpeVocabulary {
  // Looks up by std::string_view too.
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  using Ids = std::unordered_map<std::string, int32_t, Hash, std::equal_to<>>;

  explicit BpeVocabulary(PreTokenizer splitter) : pre_tokenizer(std::move(splitter)) {}

  PreTokenizer pre_tokenizer;
  bool nfc = false;                // the normalizer
  std::vector<std::string> bytes;  // what each id stands for; "" for an id that is not used
  Ids ids;                         // by the token's text as the file writes it
  Ids whole_words;  // by bytes: pre-tokens that are tokens whatever the merges say (ignore_merges)
  BpeMerger merger;
  AddedTokens raw_added;           // found in the text as given
  AddedTokens normalized_added;    // found in the normalized text between those
  bool added_have_spaces = false;  // some added token has a space or line feed inside
  std::string hash;                // of all of this
};

// Reads a parsed tokenizer.json. Throws Error{kData} naming `source`, the key, and what is wrong or
// not implemented. Post-processor, truncation and padding are ignored: they are not for training
// text.
BpeVocabulary read_bpe_vocabulary(const Json& file, const std::string& source);

}  // namespace swiattn
