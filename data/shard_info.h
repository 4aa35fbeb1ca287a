// The side file PREFIX.json: which tokenizer made a shard and what the shard should hold. Optional on
// reading, as is every key in it; keys that are not ours are ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/token_type.h"

namespace swiattn {

struct ShardInfo {
  std::string tokenizer_name;        // "" when unknown
  std::string tokenizer_hash;        // as format_hash writes it, "" when unknown
  std::optional<int64_t> vocab_size;
  std::optional<int32_t> eos_id;     // the token that ends every document

  // Found out by ShardWriter.
  std::optional<TokenType> token_type;
  std::optional<int64_t> largest_id;  // nothing in a shard without tokens
  std::optional<int64_t> tokens;
  std::optional<int64_t> documents;
  std::string payload_hash;  // of all bytes of PREFIX.bin
};

// The text of a side file.
std::string format_shard_info(const ShardInfo& info);

// Reads a side file. Throws Error{kData} naming the file and the key when a value has a wrong type
// or is out of its range.
ShardInfo read_shard_info(const std::string& path);

}  // namespace swiattn
