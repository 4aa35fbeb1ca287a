// From a Hugging Face folder, or from random numbers, into the master weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/hf_folder.h"
#include "parallel/flat_parameters.h"

namespace swiattn {

// How tensors that a folder does not have are drawn: routers, or everything.
struct InitialWeights {
  uint64_t seed = 1234;      // run.seed
  double router_std = 0.02;  // router.init_std
};

struct ImportReport {
  int64_t tensors = 0;                   // loaded
  int64_t parameters = 0;                // in them
  std::vector<std::string> initialised;  // routers that the folder does not have
};

// Fills the masters of `parameters`, wherever they live; the caller refreshes the compute copies.
// Every tensor of the model must be in the folder with its shape, in float32, float16 or bfloat16,
// and finite; routers may be missing and are then drawn. Other tensors of the folder are refused by
// name, but for rotary buffers, which transformers ignores too, a tied lm_head equal to the
// embedding, and routers when the model has none. Throws Error{kCheckpoint} naming file and tensor.
ImportReport load_weights(const HfFolder& folder, FlatParameters& parameters,
                          const InitialWeights& initial);

// Throws Error{kCheckpoint} naming the first router that a folder lacks although its config.json
// says that the model has them, or another layer has one. Who does not train means to read routers,
// not to draw them.
void require_routers(const HfFolder& folder);

// The same tests of names, shapes, types and values, without keeping the weights: memory for the
// largest tensor is enough. Routers must be there as for require_routers().
ImportReport verify_weights(const HfFolder& folder);

// Random weights for all: normal(0, initializer_range) matrices, normal(0, router_std) routers,
// norms of 1, biases of 0. Every number is a pure function of (seed, tensor, index), whatever the
// threads, ranks and devices.
void initialise_weights(FlatParameters& parameters, const ModelConfig& config,
                        const InitialWeights& initial);

}  // namespace swiattn
