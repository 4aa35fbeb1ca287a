// A source without its short documents.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/token_source.h"

namespace swiattn {

// The documents of `source` that have at least `min_tokens` tokens, end to end in file order. Reads
// all document lengths when it is built and keeps 16 bytes a kept document.
class LongDocuments : public TokenSource {
 public:
  LongDocuments(std::unique_ptr<TokenSource> source, int64_t min_tokens);

  std::string_view format() const override { return source_->format(); }
  TokenType token_type() const override { return source_->token_type(); }
  int64_t tokens() const override { return tokens_; }
  void read(int64_t begin, std::span<int32_t> out) const override;
  std::vector<int64_t> document_starts(int64_t begin, int64_t end) const override;
  int64_t documents() const override { return source_->documents(); }
  TokenRange document(int64_t number) const override;
  int64_t document_at(int64_t token) const override;

 private:
  struct Kept {
    int64_t begin;         // here
    int64_t source_begin;  // in the source
  };
  size_t kept_at(int64_t token) const;  // index of the document that a token is in
  int64_t kept_end(size_t index) const;

  std::unique_ptr<TokenSource> source_;
  int64_t min_tokens_;
  std::vector<Kept> kept_;
  int64_t tokens_ = 0;
};

}  // namespace swiattn
