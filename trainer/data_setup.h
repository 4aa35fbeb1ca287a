// From the configuration of a run to its streams of batches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/batch_stream.h"
#include "trainer/run_config.h"

namespace swiattn {

struct NamedStream {
  std::string name;
  int64_t steps = 0;  // that validation takes from it
  BatchStream stream;
};

// What the shards of a run must fit.
struct ModelTokens {
  int64_t vocab_size = 0;
  std::string tokenizer_hash;  // "" when it is not known
};

// The hash of the tokenizer that lies in the folder the run starts from; "" when there is none, or
// one that this program cannot read (it is not needed for training).
std::string starting_tokenizer_hash(const RunConfig& config);

// The training stream of one rank. Throws Error{kData} or Error{kConfiguration}.
BatchStream training_stream(const RunConfig& config, const ModelTokens& tokens, int rank,
                            int ranks);

// The validation sets in the order of the file: unshuffled, the first validation.batches *
// global_batch samples, or as many whole global batches as a smaller set has.
std::vector<NamedStream> validation_streams(const RunConfig& config, const ModelTokens& tokens,
                                            int rank, int ranks);

}  // namespace swiattn
