// The floating-point operations that a step needs, for MFU.
#pragma once

#include <cstdint>

#include "model/model_config.h"

namespace swiattn {

// 6 * parameters * tokens for the matrix products and 12 * Hq * D * pairs for attention, `pairs`
// being the (query, key) pairs that the branches taken see, summed over layers. Recomputation
// counts nothing. The input embedding is a lookup and does not count; a tied table counts once, as
// the head.
double training_flops(const ModelConfig& config, int64_t tokens, double visible_pairs);

}  // namespace swiattn
