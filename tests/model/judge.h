// The judge of the model: docs/method.md written down once more, in float64, with dense masks and
// autograd, sharing no code with src/. What the explicit backward must agree with.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/causal_lm.h"

namespace swiattn::judge {

struct Tokens {
  int64_t sequences = 0;
  int64_t length = 0;
  std::vector<int32_t> inputs, targets, positions, starts;
  std::vector<int64_t> samples;

  PackedTokens packed() const {
    return {sequences, length, inputs, targets, positions, starts, samples};
  }
};

// Random tokens; with `document_lengths` the samples are cut into documents of these lengths in
// turn (a document that crosses a sample's end is cut there, as the stream does it).
Tokens random_tokens(int64_t sequences, int64_t length, int64_t vocab_size, uint64_t seed,
                     const std::vector<int64_t>& document_lengths = {});

// What the regularizer is in this evaluation, by its name in the YAML.
struct Regularizer {
  std::string kind = "adaptive";
  double gamma = 1e-3, eps = 0.1, alpha = 100.0;
  bool detach = true;
  bool mean = true;
};

struct Verdict {
  at::Tensor nll;                  // [T]
  at::Tensor loss_sum;             // sum of NLL over counted targets
  at::Tensor regularizer_sum;      // 1/L sum_l sum_t gamma softplus(s)
  std::vector<at::Tensor> routes;  // [T] bool a layer
};

// `weights`: float64 by Hugging Face name; those that require gradients get them through
Verdict evaluate(const ModelConfig& config, const std::vector<LayerAttention>& attention,
                 int64_t window, const Gate& gate, const Regularizer& regularizer,
                 const std::map<std::string, at::Tensor>& weights, const Tokens& tokens);

}  // namespace swiattn::judge
