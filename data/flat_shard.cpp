#include "data/flat_shard.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace swiattn {
namespace {

constexpr int64_t kScanTokens = 1 << 16;

// Little-endian ids below 2^20 have a high half below 16, while every second token of real u16 text
// is hardly ever that small.
bool looks_like_u32(const MappedFile& file) {
  const size_t pairs = std::min<size_t>(file.size() / 4, 1024);
  if (file.size() % 4 != 0 || pairs < 16) return false;
  uint16_t largest_low = 0;
  uint16_t largest_high = 0;
  for (size_t i = 0; i < pairs; ++i) {
    uint16_t halves[2];
    std::memcpy(halves, file.data() + 4 * i, 4);
    largest_low = std::max(largest_low, halves[0]);
    largest_high = std::max(largest_high, halves[1]);
  }
  return largest_high < 16 && largest_low >= 16;
}

TokenType flat_type(const MappedFile& file, const ShardInfo& info) {
  if (info.token_type) return *info.token_type;
  if (file.path().ends_with(".u32.bin")) return TokenType::kU32;
  if (file.path().ends_with(".u16.bin")) return TokenType::kU16;
  return looks_like_u32(file) ? TokenType::kU32 : TokenType::kU16;
}

int32_t require_eos(const std::string& name, const ShardInfo& info,
                    const std::optional<int32_t>& eos_id) {
  if (eos_id) return *eos_id;
  if (info.eos_id) return *info.eos_id;
  fail(ExitCode::kData,
       "{}: this shard has no index, so the id of the token that ends a document must be known. "
       "Give eos_id with the source in data.sources (swiattn-data: --eos-id), or write it into a "
       "side file.",
       name);
}

}  // namespace

FlatShard::FlatShard(const std::string& name, ShardInfo info, MappedFile file, const Layout& layout,
                     const std::optional<int32_t>& eos_id)
    : TokenSource(name, std::move(info)),
      file_(std::move(file)),
      layout_(layout),
      eos_id_(require_eos(name, this->info(), eos_id)) {
  const std::string prefix = file_.path().substr(0, file_.path().rfind(".bin"));
  check_side_file(this->info(), prefix, layout_.type, layout_.tokens, std::nullopt);
}

void FlatShard::read(int64_t begin, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  SWIATTN_CHECK(begin >= 0 && count <= layout_.tokens - begin, "{}: {} tokens from {} of {}",
                name(), count, begin, layout_.tokens);
  const auto size = static_cast<int64_t>(token_bytes(layout_.type));
  decode_tokens(layout_.type, file_.data() + layout_.header_bytes + begin * size, out);
}

std::vector<int64_t> FlatShard::document_starts(int64_t begin, int64_t end) const {
  std::vector<int64_t> starts;
  if (begin == 0 && end > 0) starts.push_back(0);
  std::vector<int32_t> ids;
  for (int64_t at = std::max<int64_t>(begin, 1) - 1; at < end - 1; at += kScanTokens) {
    ids.resize(static_cast<size_t>(std::min(kScanTokens, end - 1 - at)));
    read(at, ids);
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] == eos_id_) starts.push_back(at + static_cast<int64_t>(i) + 1);
    }
  }
  return starts;
}

const std::vector<int64_t>& FlatShard::all_starts() const {
  std::call_once(starts_once_, [this] { starts_ = document_starts(0, layout_.tokens); });
  return starts_;
}

int64_t FlatShard::documents() const { return static_cast<int64_t>(all_starts().size()); }

TokenRange FlatShard::document(int64_t number) const {
  SWIATTN_CHECK(number >= 0 && number < documents(), "{}: document {}", name(), number);
  const auto begin = all_starts().begin() + number;
  return {*begin, begin + 1 == all_starts().end() ? layout_.tokens : *(begin + 1)};
}

int64_t FlatShard::document_at(int64_t token) const {
  SWIATTN_CHECK(token >= 0 && token < layout_.tokens, "{}: token {}", name(), token);
  const auto after = std::upper_bound(all_starts().begin(), all_starts().end(), token);
  return after - all_starts().begin() - 1;
}

std::unique_ptr<TokenSource> open_flat_shard(const std::string& path,
                                             const std::optional<int32_t>& eos_id) {
  MappedFile file(path, ExitCode::kData);
  ShardInfo info = read_side_file(path.substr(0, path.size() - 4));
  const TokenType type = flat_type(file, info);
  if (file.size() % token_bytes(type) != 0) {
    fail(
        ExitCode::kData,
        "{}: {} bytes is not a whole number of {} tokens of {} bytes; the shard is truncated or of "
        "another type.",
        path, file.size(), token_type_name(type), token_bytes(type));
  }
  const FlatShard::Layout layout{type, 0, static_cast<int64_t>(file.size() / token_bytes(type))};
  return std::make_unique<FlatShard>(path, std::move(info), std::move(file), layout, eos_id);
}

}  // namespace swiattn
