// The documents that an evaluation reads: from token shards or from text files.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace swiattn {

using DocumentVisitor = std::function<void(std::span<const int32_t>)>;

struct DocumentSource {
  std::string tokens;  // PREFIX of a shard, or
  std::vector<std::string>
      texts;              // .txt files (also .gz, .zst) or folders of them, a document each
  std::string tokenizer;  // folder or file, for texts
  int64_t limit = 0;      // stop after so many tokens, cutting the last document; 0: never
};

// Calls `visit` with every document in order. Throws Error{kData}.
void for_each_document(const DocumentSource& source, const DocumentVisitor& visit);

}  // namespace swiattn
