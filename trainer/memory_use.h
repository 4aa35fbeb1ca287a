// What a run keeps in memory, by kind.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "model/causal_lm.h"
#include "parallel/flat_parameters.h"

namespace swiattn {

// Bytes that are there from the first step to the last.
struct MemoryUse {
  int64_t weights = 0;  // float32 masters and the copies that the layers read
  int64_t gradients = 0;
  int64_t moments = 0;

  int64_t total() const { return weights + gradients + moments; }
};

// Parameters on the meta device tell what those of a run will take.
MemoryUse memory_use(const FlatParameters& parameters);

// Bytes that the layers keep of a micro-batch's forward for its backward.
int64_t kept_activations(Recompute recompute, const ModelConfig& config,
                         const CausalLmOptions& options, at::ScalarType compute_type,
                         int64_t tokens);

// The most bytes that a step has beside MemoryUse, as counted (docs/architecture.md, Memory): at
// the head what all layers keep and a chunk of logits, or in the FFN of a layer all of its tensors,
// what those before it keep, and two gradients. Without the workspace of libraries, the batch, and
// what CUDA graphs keep. In bfloat16 as on a GPU, whose chunks of logits are larger.
int64_t peak_activations(Recompute recompute, const ModelConfig& config,
                         const CausalLmOptions& options, at::ScalarType compute_type,
                         int64_t tokens);

// "6.54 GiB", or "812.0 MiB"
std::string describe_bytes(int64_t bytes);

// "weights 6.54 GiB, gradients 4.36 GiB, moments 8.72 GiB"
std::string describe_memory(const MemoryUse& use);

// The same and what the rest of `peak` bytes is, the most that `device` has held
// (peak_memory_bytes()): activations and workspace, and on a CPU the program itself.
std::string describe_peak_memory(const MemoryUse& use, int64_t peak, c10::Device device);

}  // namespace swiattn
