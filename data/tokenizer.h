// Text to token ids and back, the same ids as the model's own tokenizer gives.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace swiattn {

// A tokenizer read from a file. Immutable and safe to use from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // The ids of `text` alone: neither BOS nor EOS is added, whatever the file's post-processor says.
  // Text that spells a special token becomes that token, as in the `tokenizers` library. Throws
  // Error{kData} naming the byte offset when `text` is not UTF-8.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;

  // The bytes that the ids stand for. Ids that split a character give bytes that are not UTF-8 by
  // themselves. Throws Error{kData} for an id outside the vocabulary.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;

  // Where a long text may be cut so that its parts can be encoded one by one: the largest n, 0 < n
  // < text.size(), such that for every text T that begins with `text`,
  //   encode(T) == encode(T[0, n)) + encode_after_cut(T[n, …)).
  // 0 when there is no such place or this tokenizer does not know one.
  virtual size_t last_cut(std::string_view text) const = 0;

  // encode() for what follows a cut.
  virtual std::vector<int32_t> encode_after_cut(std::string_view text) const {
    return encode(text);
  }

  // The id of a token by its exact text ("<|endoftext|>"), if there is one.
  virtual std::optional<int32_t> token_id(std::string_view token) const = 0;

  virtual int32_t vocab_size() const = 0;  // the largest id + 1

  // The token that ends a document, if it is known.
  std::optional<int32_t> eos_id() const { return eos_id_; }
  // The folder's or file's own name, without the path to it.
  const std::string& name() const { return name_; }
  // Equal for tokenizers that encode alike, as format_hash writes it: of what the file means, so
  // that a tokenizer.json that was only formatted anew keeps its hash.
  const std::string& hash() const { return hash_; }

  // Before the first use by another thread.
  void set_eos_id(std::optional<int32_t> id) { eos_id_ = id; }

 protected:
  Tokenizer(std::string name, std::string hash) : name_(std::move(name)), hash_(std::move(hash)) {}

 private:
  std::string name_;
  std::string hash_;
  std::optional<int32_t> eos_id_;
};

// Opens a Hugging Face folder (tokenizer.json, else tokenizer.model), a tokenizer.json or a
// sentencepiece .model. A tokenizer.json that was converted from sentencepiece (byte_fallback) is
// passed over for the tokenizer.model beside it. The eos token is the one that
// tokenizer_config.json, config.json, generation_config.json or special_tokens_map.json in the same
// folder names, in this order, else the sentencepiece model's own. Throws Error{kData} naming the
// file, and the component where one is not implemented.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path);

}  // namespace swiattn
