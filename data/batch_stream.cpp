#include "data/batch_stream.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace swiattn {
namespace {

int64_t samples_of(const TokenSource& source, int64_t sequence_length) {
  return std::max<int64_t>(source.tokens() - 1, 0) / sequence_length;
}

const BatchStreamOptions& checked(const BatchStreamOptions& options) {
  if (options.sequence_length < 1 || options.global_batch < 1 || options.micro_batch < 1) {
    fail(ExitCode::kConfiguration,
         "data.sequence_length ({}), train.global_batch ({}) and train.micro_batch ({}) must be at "
         "least 1.",
         options.sequence_length, options.global_batch, options.micro_batch);
  }
  if (options.sequence_length > std::numeric_limits<int32_t>::max() / options.micro_batch) {
    fail(ExitCode::kConfiguration,
         "train.micro_batch ({}) times data.sequence_length ({}) must stay below 2^31 tokens.",
         options.micro_batch, options.sequence_length);
  }
  SWIATTN_CHECK(options.rank >= 0 && options.rank < options.ranks, "rank {} of {}", options.rank,
                options.ranks);
  SWIATTN_CHECK(options.vocab_size > 0, "vocabulary of {}", options.vocab_size);
  if (options.global_batch / options.ranks % options.micro_batch != 0 ||
      options.global_batch % options.ranks != 0) {
    fail(ExitCode::kConfiguration,
         "train.global_batch ({}) must be a multiple of train.micro_batch ({}) times the {} "
         "data-parallel ranks.",
         options.global_batch, options.micro_batch, options.ranks);
  }
  return options;
}

SampleOrder order_of(const BatchStreamOptions& options,
                     const std::vector<WeightedSource>& sources) {
  std::vector<SampleOrder::Source> entries;
  for (const WeightedSource& entry : sources) {
    const TokenSource& source = *entry.source;
    const int64_t samples = samples_of(source, options.sequence_length);
    if (samples < 1) {
      fail(ExitCode::kData,
           "{}: {} tokens are less than one sample of data.sequence_length + 1 = {}.",
           source.name(), source.tokens(), options.sequence_length + 1);
    }
    const std::optional<int64_t> largest = source.info().largest_id;
    if (largest && *largest >= options.vocab_size) {
      fail(ExitCode::kData,
           "{}: its largest token id is {} (says its side file), outside the model's vocabulary of "
           "{} ids. Tokenize the text with the model's own tokenizer.",
           source.name(), *largest, options.vocab_size);
    }
    entries.push_back({samples, entry.weight});
  }
  return SampleOrder(entries, options.shuffle, options.seed);
}

}  // namespace

BatchStream::BatchStream(const BatchStreamOptions& options, std::vector<WeightedSource> sources)
    : options_(checked(options)),
      sources_(std::move(sources)),
      order_(order_of(options_, sources_)),
      tokens_(static_cast<size_t>(options_.sequence_length + 1)) {}

int64_t BatchStream::micro_batches() const {
  return options_.global_batch / options_.ranks / options_.micro_batch;
}

int64_t BatchStream::samples(size_t source) const {
  return samples_of(*sources_.at(source).source, options_.sequence_length);
}

Batch BatchStream::batch(int64_t step, int64_t index) {
  SWIATTN_CHECK(step >= 1 && index >= 0 && index < micro_batches(), "step {}, micro-batch {}", step,
                index);
  Batch batch;
  batch.sequences = options_.micro_batch;
  batch.sequence_length = options_.sequence_length;
  const auto tokens = static_cast<size_t>(batch.tokens());
  batch.inputs.reserve(tokens);
  batch.targets.reserve(tokens);
  batch.positions.reserve(tokens);
  batch.document_starts.push_back(0);
  const int64_t first = (step - 1) * options_.global_batch +
                        options_.rank * (options_.global_batch / options_.ranks) +
                        index * options_.micro_batch;
  for (int64_t i = 0; i < options_.micro_batch; ++i) append_sample(batch, first + i);
  return batch;
}

void BatchStream::append_sample(Batch& batch, int64_t sample) {
  const SampleOrder::Place place = order_.place(sample);
  const TokenSource& source = *sources_[place.source].source;
  const int64_t begin = place.sample * options_.sequence_length;
  source.read(begin, tokens_);
  check_ids(source, begin);
  batch.samples.push_back(sample);
  batch.inputs.insert(batch.inputs.end(), tokens_.begin(), tokens_.end() - 1);
  batch.targets.insert(batch.targets.end(), tokens_.begin() + 1, tokens_.end());
  append_documents(batch, source, begin);
}

void BatchStream::append_documents(Batch& batch, const TokenSource& source, int64_t begin) {
  const int64_t length = options_.sequence_length;
  const auto offset = static_cast<int64_t>(batch.positions.size());
  std::vector<int64_t> starts;
  if (options_.mask_documents) {
    starts = source.document_starts(begin + 1, begin + length + 1);
    for (int64_t& start : starts) {
      start -= begin;
      batch.targets[static_cast<size_t>(offset + start - 1)] = Batch::kIgnoredTarget;
    }
  }
  // A document that begins with the token after the inputs only ends the one before it.
  if (starts.empty() || starts.back() != length) starts.push_back(length);
  batch.positions.resize(static_cast<size_t>(offset + length));
  int64_t before = 0;
  for (int64_t start : starts) {
    const auto first = batch.positions.begin() + offset;
    std::iota(first + before, first + start, 0);
    batch.document_starts.push_back(static_cast<int32_t>(offset + start));
    before = start;
  }
}

void BatchStream::check_ids(const TokenSource& source, int64_t begin) const {
  const auto [smallest, largest] = std::minmax_element(tokens_.begin(), tokens_.end());
  if (*smallest >= 0 && *largest < options_.vocab_size) return;
  const auto bad = *smallest < 0 ? smallest : largest;
  const int64_t token = begin + (bad - tokens_.begin());
  const int64_t document = source.document_at(token);
  fail(
      ExitCode::kData,
      "{}: document {}, position {}: token id {} is outside the model's vocabulary of {} ids. The "
      "shard is damaged or was made for another tokenizer; 'swiattn-data verify' checks all of it.",
      source.name(), document, token - source.document(document).begin, *bad, options_.vocab_size);
}

}  // namespace swiattn
