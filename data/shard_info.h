// The side file PREFIX.json: which tokenizer made a shard and what the shard should hold. Optional
// on reading, as is every key in it; keys that are not ours are ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/token_type.h"

namespace swiattn {

struct ShardInfo {
  std::string tokenizer_name = {};  // "" when unknown
  std::string tokenizer_hash = {};  // as format_hash writes it, "" when unknown
  std::optional<int64_t> vocab_size = {};
  std::optional<int32_t> eos_id = {};  // the token that ends every document

  // Found out by ShardWriter.
  std::optional<TokenType> token_type = {};
  std::optional<int64_t> largest_id = {};  // nothing in a shard without tokens
  std::optional<int64_t> tokens = {};
  std::optional<int64_t> documents = {};
  std::string payload_hash = {};  // of all bytes of PREFIX.bin
};

// The text of a side file; that of an empty ShardInfo is null.
std::string format_shard_info(const ShardInfo& info);

// Reads a side file. Throws Error{kData} naming the file and the key when a value has a wrong type
// or is out of its range.
ShardInfo read_shard_info(const std::string& path);

// The side file of the shard PREFIX.bin, or an empty ShardInfo when there is none.
ShardInfo read_side_file(const std::string& prefix);

// Throws Error{kData} when the side file tells another type, token count or document count than the
// shard has: then it belongs to another shard.
void check_side_file(const ShardInfo& info, const std::string& prefix, TokenType type,
                     int64_t tokens, std::optional<int64_t> documents);

// Throws Error{kData} naming the shard when its side file names another tokenizer than this hash.
void require_tokenizer(const ShardInfo& info, const std::string& shard,
                       const std::string& tokenizer_hash);

}  // namespace swiattn
