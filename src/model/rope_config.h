// The rotary part of a config.json, in the spelling of transformers 4 (rope_theta, rope_scaling)
// and of transformers 5 (rope_parameters).
#pragma once

#include <string>

#include "model/model_config.h"

namespace swiattn {

// Sets rope_theta and rope_scaling of `config` from `json`; config.max_positions is set already.
// With both spellings present rope_scaling wins, as in transformers. Throws Error{kCheckpoint}.
void parse_rope(const JsonCursor& json, ModelConfig& config);

// Writes both spellings into `json`, so that either version of transformers reads the same.
void write_rope(const ModelConfig& config, Json& json);

}  // namespace swiattn
