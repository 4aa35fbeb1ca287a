// Tokens in documents, laid end to end in file order: the one way of reading every shard format.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/shard_info.h"

namespace swiattn {

// The tokens [begin, end) of a source.
struct TokenRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// Immutable and safe to use from several threads at once.
class TokenSource {
 public:
  TokenSource(std::string name, ShardInfo info) : name_(std::move(name)), info_(std::move(info)) {}
  virtual ~TokenSource() = default;

  const std::string& name() const { return name_; }  // the path as it was given
  const ShardInfo& info() const { return info_; }    // of the side file; empty when there is none

  virtual std::string_view format() const = 0;  // "megatron", "llm.c" or "flat"
  virtual TokenType token_type() const = 0;
  virtual int64_t tokens() const = 0;
  // Copies the tokens [begin, begin + out.size()), unchecked against any vocabulary.
  virtual void read(int64_t begin, std::span<int32_t> out) const = 0;
  // Where documents begin in [begin, end), ascending, without repetition (empty documents begin
  // nowhere).
  virtual std::vector<int64_t> document_starts(int64_t begin, int64_t end) const = 0;

  // Documents by their number in the shard, also those that options leave out, whose range is
  // empty. The first of these calls has to read all tokens of a format that has no index.
  virtual int64_t documents() const = 0;
  virtual TokenRange document(int64_t number) const = 0;
  virtual int64_t document_at(int64_t token) const = 0;  // the number of the document it is in

 private:
  std::string name_;
  ShardInfo info_;
};

struct TokenSourceOptions {
  // The token that ends a document, for formats without an index; the side file's where not given.
  std::optional<int32_t> eos_id = {};
  // Documents of fewer tokens, eos included, are left out and the others laid end to end.
  int64_t min_document_tokens = 0;
};

// The PREFIX of a path, which may end in .bin or .idx.
std::string shard_prefix(const std::string& path);

// Opens PREFIX.bin with PREFIX.idx (Megatron), or else a path ending in .bin, which is an llm.c
// shard when it begins with that format's magic number and a flat one otherwise. Throws
// Error{kData} naming the shard when it is not there, not well-formed or contradicts its side file.
std::unique_ptr<TokenSource> open_token_source(const std::string& path,
                                               const TokenSourceOptions& options = {});

}  // namespace swiattn
