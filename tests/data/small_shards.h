// Small token shards for tests, in every format.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "data/token_source.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {

using Documents = std::vector<std::vector<int32_t>>;

constexpr int32_t kEos = 9;

// Documents of these lengths, eos included, whose other ids count up from 10 through the whole
// shard: the token at place t is 10 + t unless it is an eos.
Documents counted_documents(const std::vector<int64_t>& lengths);

// Everything end to end.
std::vector<int32_t> joined(const Documents& documents);

// Each writes a shard into the folder and returns the path by which it is opened.
std::string write_indexed(const TemporaryFolder& folder, const std::string& name,
                          const Documents& documents, int64_t vocab_size = 60000);
std::string write_flat_u16(const TemporaryFolder& folder, const std::string& name,
                           const Documents& documents);
std::string write_flat_u32(const TemporaryFolder& folder, const std::string& name,
                           const Documents& documents);
std::string write_llmc(const TemporaryFolder& folder, const std::string& name,
                       const Documents& documents, int32_t magic, int32_t version);

// The bytes of a number as it lies in memory.
template <class Number>
std::string bytes_of(Number number) {
  return std::string(reinterpret_cast<const char*>(&number), sizeof(number));
}

std::vector<int32_t> read_tokens(const TokenSource& source, int64_t begin, int64_t end);
std::vector<int32_t> read_all(const TokenSource& source);

}  // namespace swiattn
