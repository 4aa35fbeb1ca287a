// The loss of a model on documents, token by token where wanted, and what its routers did there.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/causal_lm.h"

namespace swiattn {

// One predicted token.
struct TokenScore {
  int64_t document = 0;        // from 0
  int64_t position = 0;        // of the target in its document
  int32_t token = 0;           // the target
  double nll = 0.0;            // nats
  std::vector<uint8_t> route;  // [layers] whether the input token before it attended to everything
};

struct PerplexityOptions {
  int64_t sequence_length = 4096;  // inputs a window
  int64_t stride = 4096;           // new targets a window
  // kBoth: of every token, to measure how far they differ. That takes as long as full attention.
  Branches branches = Branches::kTaken;
  // Called for every predicted token in order, if not empty.
  std::function<void(const TokenScore&)> per_token;
};

struct LayerRouting {
  double full_ratio = 0.0;
  double full_ratio_far = 0.0;  // of tokens with more visible keys than the window; NaN if none
  double logit_mean = 0.0;      // NaN without a router, as the next two
  double logit_std = 0.0;
  double disagreement_mean = 0.0;  // NaN without both branches, too
};

struct PerplexityResult {
  int64_t documents = 0;
  int64_t tokens = 0;  // predicted
  double nll = 0.0;    // mean, nats a token
  double full_ratio = 0.0;
  double full_ratio_far = 0.0;
  std::vector<LayerRouting> layers;
};

// Evaluates documents one after another; each is attended by itself. Feed it with add(), then ask.
class PerplexityMeter {
 public:
  // Borrows the model.
  PerplexityMeter(const CausalLm& model, PerplexityOptions options);

  // A document of any length; one of a single token predicts nothing. Throws Error{kData} for an id
  // outside the model's vocabulary.
  void add(std::span<const int32_t> document);

  PerplexityResult result() const;

 private:
  void evaluate(std::span<const int32_t> document, int64_t begin, int64_t end,
                int64_t counted_from);

  const CausalLm& model_;
  PerplexityOptions options_;
  int64_t documents_ = 0;
  int64_t windows_ = 0;
  int64_t tokens_ = 0;
  double nll_ = 0.0;
  at::Tensor statistics_;  // [layers, RoutingStatistics::kColumns]
};

}  // namespace swiattn
