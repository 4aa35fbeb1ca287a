// Byte-level byte-pair encoding as Hugging Face's `tokenizers` library does it: GPT-2, Llama-3,
// Qwen2, Qwen3, SmolLM2 and others of their kind. The ids are the library's
// (add_special_tokens=False).
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "data/bpe_vocabulary.h"
#include "data/tokenizer.h"

namespace swiattn {

class BpeTokenizer : public Tokenizer {
 public:
  BpeTokenizer(std::string name, BpeVocabulary vocabulary);
  ~BpeTokenizer() override;

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  size_t last_cut(std::string_view text) const override;
  std::optional<int32_t> token_id(std::string_view token) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(vocabulary_.bytes.size()); }

 private:
  struct Scratch;  // what one thread needs for encoding
  class Encoder;   // one call of encode()

  std::unique_ptr<Scratch> borrow_scratch() const;
  void return_scratch(std::unique_ptr<Scratch> scratch) const;

  BpeVocabulary vocabulary_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_scratch_;  // guarded by mutex_
};

}  // namespace swiattn
