// Which tensors a model has, by Hugging Face name, and how they lie together in flat buffers.
#pragma once

#include <vector>

#include "model/model_config.h"
#include "parallel/flat_parameters.h"

namespace swiattn {

// Units in the order of the forward pass: "embedding", "layer.0" … "layer.N-1", "head". A tied head
// has no tensor of its own. With `with_router` each layer also has self_attn.router.weight [1, d].
std::vector<ParameterUnit> parameter_table(const ModelConfig& config, bool with_router);

// "model.layers.3.self_attn.router.weight"
std::string router_name(int64_t layer);

}  // namespace swiattn
