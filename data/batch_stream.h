// The batches of a run: a pure function of options, sources, step and rank.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/batch.h"
#include "data/sample_order.h"
#include "data/token_source.h"

namespace swiattn {

struct BatchStreamOptions {
  int64_t sequence_length = 0;  // S
  int64_t global_batch = 0;     // samples of a step over all ranks, G
  int64_t micro_batch = 1;      // samples of a Batch
  int64_t rank = 0;             // among the data-parallel ranks
  int64_t ranks = 1;
  int64_t vocab_size = 0;  // of the model; ids outside it are refused as they are read
  uint64_t seed = 0;
  bool shuffle = true;
  bool mask_documents = true;
};

struct WeightedSource {
  std::unique_ptr<TokenSource> source;
  double weight = 1.0;
};

// Step k, counted from 1, takes the samples (k-1)*G … k*G-1 of the run (sample_order.h). This list
// is cut into `ranks` equal parts and each part into micro-batches, so that neither changes which
// tokens a step sees. Sample n of a source is its tokens n*S … n*S+S; a last part shorter than S+1
// is dropped. The first S are inputs, the last S targets.
//
// With mask_documents attention documents are those of the source: they begin anew with the sample,
// positions count from there, and a target in another document than its input is ignored. Without,
// a sample is one document.
//
// Any batch can be asked for at any time; asking in order is fastest. Not thread-safe.
class BatchStream {
 public:
  // Throws Error{kConfiguration} when the sizes do not divide each other, and Error{kData} naming
  // the source that has less than one sample or whose side file tells an id outside the vocabulary.
  BatchStream(const BatchStreamOptions& options, std::vector<WeightedSource> sources);

  // Micro-batch `index`, 0 <= index < micro_batches(), of this rank in a step. Throws Error{kData}
  // naming shard, document and position of an id outside the vocabulary.
  Batch batch(int64_t step, int64_t index);

  int64_t micro_batches() const;         // of this rank in a step
  int64_t samples(size_t source) const;  // in one pass over a source
  const BatchStreamOptions& options() const { return options_; }

 private:
  void append_sample(Batch& batch, int64_t sample);
  void append_documents(Batch& batch, const TokenSource& source, int64_t begin);
  void check_ids(const TokenSource& source, int64_t begin) const;

  BatchStreamOptions options_;
  std::vector<WeightedSource> sources_;
  SampleOrder order_;
  std::vector<int32_t> tokens_;  // [S + 1] of the sample being read
};

}  // namespace swiattn
