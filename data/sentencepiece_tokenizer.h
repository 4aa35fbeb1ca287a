// Sentencepiece models (.model), BPE and unigram, run by the sentencepiece library.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace swiattn {

// The ids are the library's. Text that spells a control piece ("</s>") is encoded as plain text.
class SentencepieceTokenizer : public Tokenizer {
 public:
  // `model` is the content of the .model file `path`. The eos id is the model's own, if it has one.
  // Throws Error{kData} naming `path` when it is damaged or not implemented.
  SentencepieceTokenizer(std::string name, const std::string& model, const std::string& path);
  ~SentencepieceTokenizer() override;

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  size_t last_cut(std::string_view text) const override;
  std::vector<int32_t> encode_after_cut(std::string_view text) const override;
  std::optional<int32_t> token_id(std::string_view token) const override;
  int32_t vocab_size() const override;

 private:
  struct Library;  // keeps the library's headers out of this one
  std::unique_ptr<Library> library_;
  bool cuttable_ = false;
};

}  // namespace swiattn
