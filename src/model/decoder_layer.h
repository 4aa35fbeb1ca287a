// One decoder layer with its router, forward and backward written out (docs/method.md, from "One
// layer" to "The loss and the regularizer"): what is saved, recomputed or reduced is visible in one
// place.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "attention/switch_attention.h"
#include "model/gate.h"
#include "model/layer_saved.h"
#include "model/micro_batch.h"
#include "model/model_config.h"
#include "ops/operations.h"
#include "parallel/flat_parameters.h"

namespace swiattn {

// What of the objective each layer has to know. The per-token NLL, which gamma reads as well, is an
// argument of the backward: it is known only after the whole forward.
struct Objective {
  GammaCoefficients gamma;
  DisagreementReduction disagreement = DisagreementReduction::kMean;
  bool detach_gamma = true;
};

// Which branches of a token that has a choice a forward computes: both, for a backward and for the
// disagreement; both of the tokens that the gate samples alone; or the one that the token takes.
enum class Branches { kBoth, kSampled, kTaken };

class DecoderLayer {
 public:
  // Borrows everything but the shapes; `unit` provides weights and takes gradients.
  DecoderLayer(const ModelConfig& config, int64_t index, LayerAttention attention, int64_t window,
               const Gate& gate, const Objective& objective, FlatUnit& unit,
               const Operations& operations, const AttentionBackend& backend);

  // From the residual stream [T, d] before the layer to that behind it. With Branches::kTaken
  // `saved` serves write_statistics() and route(), without the disagreement.
  at::Tensor forward(const at::Tensor& stream, const MicroBatch& batch, Branches branches,
                     LayerSaved& saved) const;

  // Computes again what LayerSaved::drop() let go of: the same operations on the same operands, so
  // the same bits.
  void recompute(const MicroBatch& batch, LayerSaved& saved) const;

  // `grad` is the gradient of the stream after this layer; returns that before it. `nll` [T] is the
  // loss's. Writes `statistics` [RoutingStatistics::kColumns] float64. What is handed over with
  // std::move is freed as soon as it was used.
  at::Tensor backward(at::Tensor grad, const MicroBatch& batch, LayerSaved saved,
                      const at::Tensor& nll, const at::Tensor& statistics) const;

  LayerAttention attention() const { return attention_; }
  bool has_router() const { return attention_ == LayerAttention::kSwitch && gate_.has_router(); }
  // As CausalLm::follows_positions().
  bool follows_positions() const {
    return attention_ == LayerAttention::kSwitch && !gate_.far_sampling &&
           backend_.switch_follows_positions(shape_);
  }
  // [T] bool: which tokens attended to everything.
  at::Tensor route(const MicroBatch& batch, const LayerSaved& saved) const;
  // Writes this layer's row of RoutingStatistics as backward() does, but for the regularizer's
  // columns, which are 0.
  void write_statistics(const MicroBatch& batch, const LayerSaved& saved,
                        const at::Tensor& row) const;

 private:
  void enter(LayerSaved& saved) const;
  void enter_ffn(LayerSaved& saved) const;
  at::Tensor ffn_backward(const at::Tensor& grad, LayerSaved& saved) const;
  at::Tensor project_qkv(const at::Tensor& hidden, const MicroBatch& batch,
                         LayerSaved& saved) const;
  at::Tensor project_qkv_backward(const at::Tensor& grad_qkv, const MicroBatch& batch,
                                  const LayerSaved& saved) const;
  Band band() const;  // of a layer without a choice
  void decide(const MicroBatch& batch, Branches branches, LayerSaved& saved) const;
  void attend(const MicroBatch& batch, Branches branches, LayerSaved& saved) const;
  // Writes grad_qkv; returns dL/dgate [T], undefined without a router.
  at::Tensor attend_backward(const at::Tensor& grad_out, const at::Tensor& grad_difference,
                             const MicroBatch& batch, const LayerSaved& saved,
                             const at::Tensor& grad_qkv) const;
  at::Tensor difference_gradient(const MicroBatch& batch, const LayerSaved& saved,
                                 const at::Tensor& nll) const;
  RoutedTokens tokens(const MicroBatch& batch, const LayerSaved& saved) const;

  int64_t index_;
  LayerAttention attention_;
  AttentionShape shape_;
  double eps_;
  int64_t layers_;
  bool qk_norm_;
  bool qkv_bias_;
  const Gate& gate_;
  const Objective& objective_;
  FlatUnit& unit_;
  const Operations& ops_;
  const AttentionBackend& backend_;
};

}  // namespace swiattn
