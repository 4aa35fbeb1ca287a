// llm.c token shards: 256 header words of 32 bits, then u16 or u32 ids (docs/data-format.md).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "data/token_source.h"

namespace swiattn {

// Whether the file begins with a magic number of this format.
bool is_llmc_shard(const std::string& path);

// Throws Error{kData} naming the file when its header is damaged or miscounts the tokens.
std::unique_ptr<TokenSource> open_llmc_shard(const std::string& path,
                                             const std::optional<int32_t>& eos_id);

}  // namespace swiattn
