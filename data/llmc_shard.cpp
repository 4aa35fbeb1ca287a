#include "data/llmc_shard.h"

#include <array>
#include <cstring>
#include <utility>

#include "base/file_system.h"
#include "data/flat_shard.h"

namespace swiattn {
namespace {

constexpr int32_t kMagicU16 = 20240520;
constexpr int32_t kMagicU32 = 20240801;
// llm.c writes version 1 for GPT-2's ids and 7 for Llama 3's; the layout is the same.
constexpr std::array<int32_t, 2> kVersions = {1, 7};
constexpr uint64_t kHeaderBytes = 256 * sizeof(int32_t);

int32_t header_word(const MappedFile& file, size_t index) {
  int32_t word = 0;
  if (file.size() >= (index + 1) * sizeof(word)) {
    std::memcpy(&word, file.data() + index * sizeof(word), sizeof(word));
  }
  return word;
}

}  // namespace

bool is_llmc_shard(const std::string& path) {
  const int32_t magic = header_word(MappedFile(path, ExitCode::kData), 0);
  return magic == kMagicU16 || magic == kMagicU32;
}

std::unique_ptr<TokenSource> open_llmc_shard(const std::string& path,
                                             const std::optional<int32_t>& eos_id) {
  MappedFile file(path, ExitCode::kData);
  if (file.size() < kHeaderBytes) {
    fail(ExitCode::kData, "{}: truncated: {} bytes, less than the {} of an llm.c header.", path,
         file.size(), kHeaderBytes);
  }
  const int32_t version = header_word(file, 1);
  if (version != kVersions[0] && version != kVersions[1]) {
    fail(ExitCode::kData, "{}: llm.c version {} is not known; only 1 and 7 are.", path, version);
  }
  const TokenType type = header_word(file, 0) == kMagicU16 ? TokenType::kU16 : TokenType::kU32;
  const int64_t tokens = header_word(file, 2);
  const auto payload_bytes = static_cast<int64_t>(file.size() - kHeaderBytes);
  if (tokens < 0 || payload_bytes != tokens * static_cast<int64_t>(token_bytes(type))) {
    fail(ExitCode::kData,
         "{}: its header counts {} tokens of {} bytes, but {} bytes follow; the shard is truncated "
         "or damaged.",
         path, tokens, token_bytes(type), payload_bytes);
  }
  ShardInfo info = read_side_file(path.substr(0, path.size() - 4));
  const FlatShard::Layout layout{type, static_cast<int64_t>(kHeaderBytes), tokens};
  return std::make_unique<FlatShard>(path, std::move(info), std::move(file), layout, eos_id);
}

}  // namespace swiattn
