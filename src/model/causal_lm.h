// The whole model: embedding, decoder layers, final norm and head, over flat parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "model/decoder_layer.h"
#include "model/gate.h"
#include "model/micro_batch.h"
#include "model/model_config.h"
#include "model/routing_statistics.h"

namespace swiattn {

// How the layers attend and what training adds to the loss.
struct CausalLmOptions {
  std::vector<LayerAttention> attention;  // one a layer
  int64_t window = 0;                     // w; unused when every layer is full
  Gate gate;
  Objective objective;
  Recompute recompute = Recompute::kNone;
};

// What a forward leaves for the backward.
struct Activations {
  std::vector<LayerSaved> layers;
  at::Tensor final_stream;  // [T, d]
  RmsNormOutput final_norm;
};

// What a micro-batch gave, still on the device.
struct MicroBatchResult {
  at::Tensor nll;         // [T], 0 where the target is ignored
  at::Tensor statistics;  // [layers, RoutingStatistics::kColumns] float64
};

class CausalLm {
 public:
  // Borrows `parameters` (units as of parameter_table()), which must outlive the model.
  CausalLm(const ModelConfig& config, CausalLmOptions options, FlatParameters& parameters,
           const Operations& operations, std::unique_ptr<AttentionBackend> backend);

  CausalLm(const CausalLm&) = delete;  // the layers refer to its options
  CausalLm& operator=(const CausalLm&) = delete;

  // As MicroBatchMaker::make(): nobody waits for the device.
  MicroBatch prepare(const PackedTokens& packed) const;

  // gamma_base of the regularizer from the next micro-batch on, for a controller that moves it.
  void set_gamma(double gamma) { options_.objective.gamma.base = gamma; }

  // Forward and backward of the SUMS over this micro-batch,
  //   sum_t NLL_t + 1/L sum_l sum_t gamma softplus(s),
  // added to the parameters' gradients; dividing by the global number of counted tokens is the
  // optimizer's (docs/method.md, "The loss and the regularizer"). Where the gate samples far rows,
  // the gradient that goes through the routers is an unbiased estimate.
  MicroBatchResult train(const MicroBatch& batch);

  // Whether all that train() launches follows from the shape of a micro-batch and whether any of
  // its tokens has far keys, whatever its documents: AttentionBackend::switch_follows_positions().
  bool follows_positions() const;

  // Forward only. `routes`, if given, receives every layer's [T] bool. The statistics have the
  // disagreement where both branches are asked for.
  MicroBatchResult evaluate(const MicroBatch& batch, Branches branches,
                            std::vector<at::Tensor>* routes = nullptr) const;

  at::Tensor logits(const MicroBatch& batch) const;  // [T, V], the compute type

  const ModelConfig& config() const { return config_; }
  const CausalLmOptions& options() const { return options_; }
  c10::Device device() const { return parameters_.device(); }
  const AttentionBackend& backend() const { return *backend_; }
  const Operations& operations() const { return ops_; }

 private:
  Activations forward(const MicroBatch& batch) const;
  LinearCrossEntropyOutput head(const MicroBatch& batch, const Activations& activations) const;
  // By value: everything is freed as soon as it was used.
  void backward(const MicroBatch& batch, Activations activations, LinearCrossEntropyOutput loss,
                const at::Tensor& statistics) const;
  void recompute(size_t layer, const MicroBatch& batch, LayerSaved& saved) const;
  // The stream through all layers without keeping what a backward would need.
  at::Tensor final_hidden(const MicroBatch& batch, Branches branches, const at::Tensor& statistics,
                          std::vector<at::Tensor>* routes) const;
  NllWeight nll_weight(const MicroBatch& batch, const Activations& activations) const;
  at::Tensor empty_statistics() const;
  FlatUnit& head_unit() const;
  const char* head_group() const { return config_.tied_embeddings ? "embed" : "lm_head"; }

  ModelConfig config_;
  CausalLmOptions options_;
  FlatParameters& parameters_;
  const Operations& ops_;
  std::unique_ptr<AttentionBackend> backend_;
  mutable MicroBatchMaker micro_batches_;  // what they share; a model serves one thread
  std::vector<DecoderLayer> layers_;
};

}  // namespace swiattn
