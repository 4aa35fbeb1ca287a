#include "model/causal_lm.h"

#include <ATen/ATen.h>

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "base/check.h"
#include "parallel/phase.h"

namespace swiattn {

CausalLm::CausalLm(const ModelConfig& config, CausalLmOptions options, FlatParameters& parameters,
                   const Operations& operations, std::unique_ptr<AttentionBackend> backend)
    : config_(config),
      options_(std::move(options)),
      parameters_(parameters),
      ops_(operations),
      backend_(std::move(backend)),
      micro_batches_(rotary_frequencies(config_), options_.window, parameters_.compute_type(),
                     parameters_.device()) {
  SWIATTN_CHECK(static_cast<int64_t>(options_.attention.size()) == config_.layers,
                "{} layers but {} kinds of attention", config_.layers, options_.attention.size());
  for (int64_t i = 0; i < config_.layers; ++i) {
    layers_.emplace_back(config_, i, options_.attention[static_cast<size_t>(i)], options_.window,
                         options_.gate, options_.objective,
                         parameters_.unit(fmt::format("layer.{}", i)), ops_, *backend_);
  }
}

MicroBatch CausalLm::prepare(const PackedTokens& packed) const {
  return micro_batches_.make(packed);
}

MicroBatchResult CausalLm::train(const MicroBatch& batch) {
  Activations activations = forward(batch);
  LinearCrossEntropyOutput loss = head(batch, activations);
  MicroBatchResult result{loss.nll, empty_statistics()};
  backward(batch, std::move(activations), std::move(loss), result.statistics);
  return result;
}

bool CausalLm::follows_positions() const {
  return std::all_of(layers_.begin(), layers_.end(),
                     [](const DecoderLayer& layer) { return layer.follows_positions(); });
}

Activations CausalLm::forward(const MicroBatch& batch) const {
  const NamedRange phase(Phase::kForward);
  const Branches branches = options_.gate.far_sampling ? Branches::kSampled : Branches::kBoth;
  Activations activations;
  activations.layers.resize(layers_.size());
  at::Tensor& stream = activations.final_stream;
  stream = ops_.embedding_forward(parameters_.unit("embedding").group_compute("embed"), batch.ids);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const NamedRange layer(fmt::format("layer {} forward", i + 1));
    stream = layers_[i].forward(stream, batch, branches, activations.layers[i]);
    activations.layers[i].drop(options_.recompute);
  }
  activations.final_norm = ops_.rms_norm_forward(
      stream, parameters_.unit("head").group_compute("norm"), config_.rms_norm_eps);
  return activations;
}

LinearCrossEntropyOutput CausalLm::head(const MicroBatch& batch,
                                        const Activations& activations) const {
  const NamedRange phase(Phase::kHead);
  return ops_.linear_cross_entropy_train(
      activations.final_norm.normed, head_unit().group_compute(head_group()), batch.targets,
      head_unit().take_gradient(head_group()), nll_weight(batch, activations));
}

void CausalLm::backward(const MicroBatch& batch, Activations activations,
                        LinearCrossEntropyOutput loss, const at::Tensor& statistics) const {
  std::optional<NamedRange> phase(std::in_place, Phase::kBackward);
  FlatUnit& norm = parameters_.unit("head");
  at::Tensor grad = ops_.rms_norm_backward(
      loss.grad_hidden, {}, activations.final_stream, norm.group_compute("norm"),
      activations.final_norm.inverse_rms, norm.take_gradient("norm"));
  activations.final_stream.reset();
  activations.final_norm = {};
  loss.grad_hidden.reset();
  for (size_t i = layers_.size(); i-- > 0;) {
    if (options_.recompute != Recompute::kNone) {
      phase.reset();
      recompute(i, batch, activations.layers[i]);
      phase.emplace(Phase::kBackward);
    }
    const NamedRange layer(fmt::format("layer {} backward", i + 1));
    grad = layers_[i].backward(std::move(grad), batch, std::move(activations.layers[i]), loss.nll,
                               statistics[static_cast<int64_t>(i)]);
  }
  ops_.embedding_backward(grad, batch.ids, parameters_.unit("embedding").take_gradient("embed"));
}

void CausalLm::recompute(size_t layer, const MicroBatch& batch, LayerSaved& saved) const {
  const NamedRange phase(Phase::kRecompute);
  const NamedRange range(fmt::format("layer {} recompute", layer + 1));
  layers_[layer].recompute(batch, saved);
}

// Where gamma is not detached, the objective depends on NLL_t also through every layer's gamma_t:
// d/dNLL_t = 1 + 1/L sum_l softplus(s) * dgamma/dNLL, with dgamma/dNLL = -gamma^2 / base * weight.
NllWeight CausalLm::nll_weight(const MicroBatch& batch, const Activations& activations) const {
  const GammaCoefficients& gamma = options_.objective.gamma;
  if (options_.objective.detach_gamma || !gamma.active() || gamma.constant) return {};
  return [&, gamma](const at::Tensor& nll, int64_t begin) {
    at::Tensor weight = at::ones_like(nll);
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (!layers_[i].has_router()) continue;
      const LayerSaved& saved = activations.layers[i];
      const RegularizerTerms terms =
          ops_.regularizer_gamma(gamma, saved.logits.narrow(0, begin, nll.size(0)), nll,
                                 saved.attention.disagreement.narrow(0, begin, nll.size(0)),
                                 batch.counted.narrow(0, begin, nll.size(0)));
      weight.add_(terms.value * terms.gamma,
                  -gamma.nll_weight / (gamma.base * static_cast<double>(config_.layers)));
    }
    return weight;
  };
}

at::Tensor CausalLm::final_hidden(const MicroBatch& batch, Branches branches,
                                  const at::Tensor& statistics,
                                  std::vector<at::Tensor>* routes) const {
  at::Tensor stream =
      ops_.embedding_forward(parameters_.unit("embedding").group_compute("embed"), batch.ids);
  for (size_t i = 0; i < layers_.size(); ++i) {
    LayerSaved scratch;
    stream = layers_[i].forward(stream, batch, branches, scratch);
    if (statistics.defined()) {
      layers_[i].write_statistics(batch, scratch, statistics[static_cast<int64_t>(i)]);
    }
    if (routes != nullptr) routes->push_back(layers_[i].route(batch, scratch));
  }
  return ops_
      .rms_norm_forward(stream, parameters_.unit("head").group_compute("norm"),
                        config_.rms_norm_eps)
      .normed;
}

MicroBatchResult CausalLm::evaluate(const MicroBatch& batch, Branches branches,
                                    std::vector<at::Tensor>* routes) const {
  MicroBatchResult result;
  result.statistics = empty_statistics();
  const at::Tensor hidden = final_hidden(batch, branches, result.statistics, routes);
  result.nll = ops_.linear_cross_entropy_forward(hidden, head_unit().group_compute(head_group()),
                                                 batch.targets);
  return result;
}

at::Tensor CausalLm::logits(const MicroBatch& batch) const {
  return ops_.linear_forward(final_hidden(batch, Branches::kTaken, {}, nullptr),
                             head_unit().group_compute(head_group()), {});
}

at::Tensor CausalLm::empty_statistics() const {
  return at::zeros({config_.layers, RoutingStatistics::kColumns},
                   at::TensorOptions().dtype(at::kDouble).device(parameters_.device()));
}

FlatUnit& CausalLm::head_unit() const {
  return parameters_.unit(config_.tied_embeddings ? "embedding" : "head");
}

}  // namespace swiattn
