// The frequencies of rotary position embeddings, as transformers computes them.
#pragma once

#include <vector>

#include "model/model_config.h"

namespace swiattn {

// Channel pair i of a head is rotated by position * inverse[i]; cos and sin are then multiplied by
// attention_factor (1 but for YaRN). The values are those of float32 arithmetic in the order of
// transformers' modeling_rope_utils, since that is what a pretrained model has seen.
struct RotaryFrequencies {
  std::vector<double> inverse;  // [D/2]
  double attention_factor = 1.0;
};

RotaryFrequencies rotary_frequencies(const ModelConfig& config);

}  // namespace swiattn
