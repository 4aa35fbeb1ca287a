// Shards without an index: token ids one after the other, documents found by the token that ends
// them. nanoGPT writes nothing else into a file; llm.c puts a header before it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "data/token_source.h"

namespace swiattn {

// Tokens after the last eos are a document, too.
class FlatShard : public TokenSource {
 public:
  struct Layout {
    TokenType type;
    int64_t header_bytes;
    int64_t tokens;  // must fit into the file
  };
  // `eos_id` or else `info` must know the end of a document: Error{kData} otherwise, or when the
  // side file contradicts the layout.
  FlatShard(const std::string& name, ShardInfo info, MappedFile file, const Layout& layout,
            const std::optional<int32_t>& eos_id);

  std::string_view format() const override { return layout_.header_bytes > 0 ? "llm.c" : "flat"; }
  TokenType token_type() const override { return layout_.type; }
  int64_t tokens() const override { return layout_.tokens; }
  void read(int64_t begin, std::span<int32_t> out) const override;
  std::vector<int64_t> document_starts(int64_t begin, int64_t end) const override;
  int64_t documents() const override;
  TokenRange document(int64_t number) const override;
  int64_t document_at(int64_t token) const override;

 private:
  const std::vector<int64_t>& all_starts() const;

  MappedFile file_;
  Layout layout_;
  int32_t eos_id_;
  mutable std::once_flag starts_once_;
  mutable std::vector<int64_t> starts_;  // filled by the first call of all_starts()
};

// Opens a file that holds ids and nothing else, u16 or u32: as `token_type` of the side file says,
// else by the ending .u16.bin or .u32.bin, else by content: every second u16 of u32 ids is small.
std::unique_ptr<TokenSource> open_flat_shard(const std::string& path,
                                             const std::optional<int32_t>& eos_id);

}  // namespace swiattn
