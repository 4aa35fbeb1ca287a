// The full check of a token shard: every token is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/token_source.h"

namespace swiattn {

class Tokenizer;

struct ShardVerification {
  std::vector<std::string> checked;   // what was looked at, and what could not be for want of facts
  std::vector<std::string> problems;  // a sentence each
};

// Ids must be below `vocab_size` and below the vocabularies of the tokenizer and the side file, as
// far as these are known; documents of an indexed shard must end in eos; payload, largest id and
// tokenizer must be those of the side file. `tokenizer` may be null. That the shard could be opened
// has shown that its structure is sound.
ShardVerification verify_shard(const TokenSource& source, const Tokenizer* tokenizer,
                               const std::optional<int64_t>& vocab_size);

}  // namespace swiattn
