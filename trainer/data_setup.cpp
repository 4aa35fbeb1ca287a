#include "trainer/data_setup.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "checkpoint/hf_folder.h"
#include "data/shard_info.h"
#include "data/tokenizer.h"

namespace swiattn {
namespace {

// The configuration refuses ids beyond an int32_t.
std::optional<int32_t> narrow(std::optional<int64_t> id) {
  return id ? std::optional(static_cast<int32_t>(*id)) : std::nullopt;
}

BatchStreamOptions stream_options(const RunConfig& config, int64_t vocab_size, int rank,
                                  int ranks) {
  return {.sequence_length = config.data.sequence_length,
          .global_batch = config.train.global_batch,
          .micro_batch = config.train.micro_batch,
          .rank = rank,
          .ranks = ranks,
          .vocab_size = vocab_size,
          .seed = static_cast<uint64_t>(config.run.seed),
          .shuffle = config.data.shuffle,
          .mask_documents = config.attention.mask_documents};
}

std::unique_ptr<TokenSource> open_checked(const std::string& path,
                                          const TokenSourceOptions& options,
                                          const ModelTokens& tokens) {
  auto source = open_token_source(path, options);
  if (!tokens.tokenizer_hash.empty()) {
    require_tokenizer(source->info(), source->name(), tokens.tokenizer_hash);
  }
  return source;
}

}  // namespace

std::string starting_tokenizer_hash(const RunConfig& config) {
  if (!config.model.init_from) return "";
  try {
    return open_tokenizer(companions_of(*config.model.init_from))->hash();
  } catch (const Error&) {
    return "";
  }
}

BatchStream training_stream(const RunConfig& config, const ModelTokens& tokens, int rank,
                            int ranks) {
  std::vector<WeightedSource> sources;
  for (const DataSource& source : config.data.sources) {
    sources.push_back(
        {open_checked(source.path, {narrow(source.eos_id), config.data.min_document_tokens},
                      tokens),
         source.weight});
  }
  return {stream_options(config, tokens.vocab_size, rank, ranks), std::move(sources)};
}

std::vector<NamedStream> validation_streams(const RunConfig& config, const ModelTokens& tokens,
                                            int rank, int ranks) {
  std::vector<NamedStream> streams;
  for (const ValidationSet& set : config.data.validation) {
    BatchStreamOptions options = stream_options(config, tokens.vocab_size, rank, ranks);
    options.shuffle = false;
    std::vector<WeightedSource> source;
    source.push_back({open_checked(set.path, {narrow(set.eos_id), 0}, tokens), 1.0});
    BatchStream stream(options, std::move(source));
    const int64_t whole = stream.samples(0) / config.train.global_batch;
    if (whole == 0) {
      fail(ExitCode::kData,
           "The validation set \"{}\" ({}) holds {} samples of {} tokens, less than one global "
           "batch of {}; give it more text, or choose a smaller train.global_batch.",
           set.name, set.path, stream.samples(0), config.data.sequence_length,
           config.train.global_batch);
    }
    streams.push_back({set.name, std::min(config.validation.batches, whole), std::move(stream)});
  }
  return streams;
}

}  // namespace swiattn
