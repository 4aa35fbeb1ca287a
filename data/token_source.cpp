#include "data/token_source.h"

#include <string_view>

#include "base/error.h"
#include "base/file_system.h"
#include "data/flat_shard.h"
#include "data/indexed_dataset.h"
#include "data/llmc_shard.h"
#include "data/long_documents.h"

namespace swiattn {
namespace {

std::string without_suffix(const std::string& path, std::string_view suffix) {
  return path.ends_with(suffix) ? path.substr(0, path.size() - suffix.size()) : path;
}

std::unique_ptr<TokenSource> open_shard(const std::string& path,
                                        const std::optional<int32_t>& eos_id) {
  const std::string prefix = shard_prefix(path);
  const bool has_payload = file_exists(prefix + ".bin");
  if (has_payload && file_exists(prefix + ".idx")) {
    return std::make_unique<IndexedDataset>(path, prefix);
  }
  if (has_payload && path.ends_with(".bin")) {
    if (is_llmc_shard(path)) return open_llmc_shard(path, eos_id);
    return open_flat_shard(path, eos_id);
  }
  if (has_payload) {
    fail(ExitCode::kData,
         "{}: there is no '{}.idx' beside '{}.bin'. The writing of this shard was interrupted and "
         "has to be repeated; if it is a flat or an llm.c shard, give the path with '.bin'.",
         path, prefix, prefix);
  }
  fail(ExitCode::kData,
       "{}: there is no token shard: the file '{}.bin' does not exist. Give PREFIX for the files "
       "PREFIX.bin and PREFIX.idx, or the path of a flat or llm.c shard with '.bin'; 'swiattn-data "
       "tokenize' makes shards of text.",
       path, prefix);
}

}  // namespace

std::string shard_prefix(const std::string& path) {
  return without_suffix(without_suffix(path, ".idx"), ".bin");
}

std::unique_ptr<TokenSource> open_token_source(const std::string& path,
                                               const TokenSourceOptions& options) {
  std::unique_ptr<TokenSource> source = open_shard(path, options.eos_id);
  if (options.min_document_tokens <= 1) return source;
  return std::make_unique<LongDocuments>(std::move(source), options.min_document_tokens);
}

}  // namespace swiattn
