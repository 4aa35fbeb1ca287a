// Writes a Megatron indexed dataset, PREFIX.bin and PREFIX.idx, with its side file PREFIX.json.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/hash.h"
#include "data/shard_info.h"

namespace swiattn {

// Documents go to temporary files; finish() gives them their names. Without finish() the destructor
// removes the temporaries, and files of an earlier run under the same prefix stay as they were.
// After an error the writer can only be destroyed. Keeps 4 bytes of memory a document. Not
// thread-safe.
class ShardWriter {
 public:
  // `info` gives tokenizer_name, tokenizer_hash, vocab_size (required: it decides the token type)
  // and eos_id; the writer fills in the rest. Creates the folder of `prefix`. `files` must outlive
  // the writer.
  ShardWriter(FileSystem& files, std::string prefix, ShardInfo info);
  ~ShardWriter();
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  // Writes a document exactly as given: the caller ends it with eos_id, if there is one, which is
  // checked. Throws Error{kData} for an id outside [0, vocab_size).
  void append_document(std::span<const int32_t> tokens);

  // The same in pieces, for documents too long to hold in memory.
  void begin_document();
  void append_tokens(std::span<const int32_t> tokens);
  void end_document();

  // Writes index and side file, syncs all three and renames them into place, the index last: a
  // crash leaves a complete shard or one that has no index and is refused on reading.
  void finish();

  // Tokens, documents and largest id so far; after finish() the payload hash as well.
  const ShardInfo& info() const { return info_; }

 private:
  void write_tokens(std::span<const int32_t> tokens);
  void flush();

  FileSystem& files_;
  std::string prefix_;
  ShardInfo info_;
  std::unique_ptr<WritableFile> payload_;
  Hasher payload_hasher_;
  std::vector<std::byte> buffer_;  // encoded tokens on their way to the payload
  std::vector<int32_t> lengths_;   // tokens of each finished document
  int64_t document_tokens_ = 0;    // of the open document
  int32_t last_token_ = -1;        // of the open document
  bool in_document_ = false;
  bool finished_ = false;
};

}  // namespace swiattn
