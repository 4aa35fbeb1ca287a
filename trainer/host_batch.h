// Between the batches of data/ and the micro-batches of a model, which know nothing of each other.
#pragma once

#include "data/batch.h"
#include "model/micro_batch.h"

namespace swiattn {

inline PackedTokens packed_tokens(const Batch& batch) {
  return {batch.sequences, batch.sequence_length, batch.inputs, batch.targets,
          batch.positions, batch.document_starts, batch.samples};
}

}  // namespace swiattn
