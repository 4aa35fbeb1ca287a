// Megatron indexed datasets. docs/data-format.md has the layout of the index.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "data/token_source.h"

namespace swiattn {

// A mapped pair PREFIX.bin and PREFIX.idx. A document is one sequence or several adjacent ones.
// Opening checks the whole index (some milliseconds for a million documents) and keeps nothing of
// it in memory. The sequences must lie in the payload one after the other without gaps, as every
// writer leaves them: then a sequence's pointer also says how many tokens come before it.
class IndexedDataset : public TokenSource {
 public:
  // Throws Error{kData} naming the file at fault, for an index that is truncated, of another
  // format, of a type that cannot hold tokens, or at odds with the payload or the side file.
  IndexedDataset(const std::string& name, const std::string& prefix);

  std::string_view format() const override { return "megatron"; }
  TokenType token_type() const override { return index_.type; }
  int64_t tokens() const override { return tokens_; }
  void read(int64_t begin, std::span<int32_t> out) const override;
  std::vector<int64_t> document_starts(int64_t begin, int64_t end) const override;
  int64_t documents() const override { return index_.documents; }
  TokenRange document(int64_t number) const override;
  int64_t document_at(int64_t token) const override;

 private:
  // Where the parts of the mapped index begin. Nothing in it is aligned.
  struct Index {
    TokenType type;
    int64_t sequences;
    int64_t documents;
    const std::byte* lengths;     // i32 [sequences]
    const std::byte* pointers;    // i64 [sequences], bytes into the payload
    const std::byte* boundaries;  // i64 [documents + 1], sequences
  };
  static Index parse(const MappedFile& file);
  void check_sequences() const;
  void check_boundaries() const;
  int64_t document_begin(int64_t number) const;      // in tokens; number may equal documents()
  int64_t first_document_from(int64_t token) const;  // that begins at or after the token

  MappedFile index_file_;
  MappedFile payload_;
  Index index_;
  int64_t tokens_;
};

// Writes the index of documents of these lengths, one sequence each.
void write_index(WritableFile& file, TokenType type, std::span<const int32_t> lengths);

}  // namespace swiattn
