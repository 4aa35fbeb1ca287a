#include "data/shard_info.h"

#include <limits>

#include "base/error.h"
#include "base/file_system.h"
#include "base/json.h"

namespace swiattn {

std::string format_shard_info(const ShardInfo& info) {
  nlohmann::ordered_json json;
  if (!info.tokenizer_name.empty()) json["tokenizer"] = info.tokenizer_name;
  if (!info.tokenizer_hash.empty()) json["tokenizer_hash"] = info.tokenizer_hash;
  if (info.vocab_size) json["vocab_size"] = *info.vocab_size;
  if (info.eos_id) json["eos_id"] = *info.eos_id;
  if (info.token_type) json["token_type"] = token_type_name(*info.token_type);
  if (info.largest_id) json["largest_id"] = *info.largest_id;
  if (info.tokens) json["tokens"] = *info.tokens;
  if (info.documents) json["documents"] = *info.documents;
  if (!info.payload_hash.empty()) json["payload_hash"] = info.payload_hash;
  return dump_json(json, 2) + "\n";
}

ShardInfo read_shard_info(const std::string& path) {
  constexpr int64_t kMostIds = std::numeric_limits<int32_t>::max();
  constexpr int64_t kMostTokens = std::numeric_limits<int64_t>::max();
  const Json json = read_json_file(path, ExitCode::kData, 1 << 20);
  const JsonCursor root(json, path, ExitCode::kData);
  if (!root.is_object()) root.refuse("an object");
  ShardInfo info;
  if (root.has("tokenizer")) info.tokenizer_name = root["tokenizer"].string();
  if (root.has("tokenizer_hash")) info.tokenizer_hash = root["tokenizer_hash"].string();
  if (root.has("vocab_size")) info.vocab_size = root["vocab_size"].integer(1, kMostIds);
  if (root.has("eos_id")) {
    info.eos_id = static_cast<int32_t>(root["eos_id"].integer(0, kMostIds));
  }
  if (root.has("token_type")) {
    info.token_type = token_type_named(root["token_type"].string());
    if (!info.token_type) root["token_type"].refuse("one of u8, i8, u16, i16, u32, i32, i64");
  }
  if (root.has("largest_id")) info.largest_id = root["largest_id"].integer(0, kMostIds);
  if (root.has("tokens")) info.tokens = root["tokens"].integer(0, kMostTokens);
  if (root.has("documents")) info.documents = root["documents"].integer(0, kMostTokens);
  if (root.has("payload_hash")) info.payload_hash = root["payload_hash"].string();
  return info;
}

ShardInfo read_side_file(const std::string& prefix) {
  const std::string path = prefix + ".json";
  return file_exists(path) ? read_shard_info(path) : ShardInfo{};
}

void check_side_file(const ShardInfo& info, const std::string& prefix, TokenType type,
                     int64_t tokens, std::optional<int64_t> documents) {
  const auto refuse = [&prefix](std::string_view key, const auto& told, const auto& found) {
    fail(ExitCode::kData,
         "{0}.json: {1} is {2}, but the shard has {3}. The side file belongs to another shard, or "
         "'{0}.bin' was truncated or changed. Write the shard anew, or remove the side file.",
         prefix, key, told, found);
  };
  if (info.token_type && *info.token_type != type) {
    refuse("token_type", token_type_name(*info.token_type), token_type_name(type));
  }
  if (info.tokens && *info.tokens != tokens) refuse("tokens", *info.tokens, tokens);
  if (info.documents && documents && *info.documents != *documents) {
    refuse("documents", *info.documents, *documents);
  }
}

void require_tokenizer(const ShardInfo& info, const std::string& shard,
                       const std::string& tokenizer_hash) {
  if (info.tokenizer_hash.empty() || info.tokenizer_hash == tokenizer_hash) return;
  fail(ExitCode::kData,
       "{}: its tokens were made by the tokenizer '{}' ({}), not by the one that is to read them "
       "({}). Tokenize the text with the right tokenizer.",
       shard, info.tokenizer_name, info.tokenizer_hash, tokenizer_hash);
}

}  // namespace swiattn
