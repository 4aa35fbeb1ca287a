#include "model/decoder_layer.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

namespace swiattn {

DecoderLayer::DecoderLayer(const ModelConfig& config, int64_t index, LayerAttention attention,
                           int64_t window, const Gate& gate, const Objective& objective,
                           FlatUnit& unit, const Operations& operations,
                           const AttentionBackend& backend)
    : index_(index),
      attention_(attention),
      shape_{config.heads, config.kv_heads, config.head_dim, window,
             1.0 / std::sqrt(static_cast<double>(config.head_dim))},
      eps_(config.rms_norm_eps),
      layers_(config.layers),
      qk_norm_(config.qk_norm),
      qkv_bias_(config.qkv_bias),
      gate_(gate),
      objective_(objective),
      unit_(unit),
      ops_(operations),
      backend_(backend) {}

at::Tensor DecoderLayer::forward(const at::Tensor& stream, const MicroBatch& batch,
                                 Branches branches, LayerSaved& saved) const {
  saved.entry = stream;
  enter(saved);
  saved.qkv = project_qkv(saved.input_norm.normed, batch, saved);
  decide(batch, branches, saved);
  attend(batch, branches, saved);
  enter_ffn(saved);
  return ops_.linear_add(saved.middle, ops_.swiglu_forward(saved.gate_up),
                         unit_.group_compute("down"));
}

void DecoderLayer::recompute(const MicroBatch& batch, LayerSaved& saved) const {
  enter(saved);
  saved.qkv = project_qkv(saved.input_norm.normed, batch, saved);
  if (!saved.attention.out.defined()) attend(batch, Branches::kBoth, saved);
  enter_ffn(saved);
}

at::Tensor DecoderLayer::backward(at::Tensor grad, const MicroBatch& batch, LayerSaved saved,
                                  const at::Tensor& nll, const at::Tensor& statistics) const {
  const at::Tensor grad_middle = ffn_backward(grad, saved);
  grad.reset();
  const at::Tensor grad_out =
      ops_.linear_backward(grad_middle, saved.attention.out.flatten(1), unit_.group_compute("o"),
                           unit_.take_gradient("o"), {});
  const at::Tensor grad_qkv = at::empty_like(saved.qkv);
  const at::Tensor grad_gate =
      attend_backward(grad_out.view(saved.attention.out.sizes()),
                      difference_gradient(batch, saved, nll), batch, saved, grad_qkv);
  const at::Tensor grad_hidden = project_qkv_backward(grad_qkv, batch, saved);

  if (!has_router()) {
    write_statistics(batch, saved, statistics);
    return ops_.rms_norm_backward(grad_hidden, grad_middle, saved.entry,
                                  unit_.group_compute("input_norm"), saved.input_norm.inverse_rms,
                                  unit_.take_gradient("input_norm"));
  }
  // The straight-through gradient of the loss and that of the regularizer.
  const at::Tensor grad_logits = ops_.router_gradient(
      tokens(batch, saved), {objective_.gamma, nll, layers_}, grad_gate, statistics);
  return ops_.routed_norm_backward(grad_hidden, grad_logits, grad_middle, saved.entry,
                                   saved.input_norm, unit_.group_compute("input_norm"),
                                   unit_.group_master("router"), unit_.take_gradient("input_norm"),
                                   unit_.take_gradient("router"));
}

// The layer's first norm, and the router that reads its rows.
void DecoderLayer::enter(LayerSaved& saved) const {
  const at::Tensor weight = unit_.group_compute("input_norm");
  if (!has_router()) {
    saved.input_norm = ops_.rms_norm_forward(saved.entry, weight, eps_);
    return;
  }
  RoutedNormOutput routed =
      ops_.routed_norm_forward(saved.entry, weight, eps_, unit_.group_master("router"));
  saved.input_norm = std::move(routed.norm);
  saved.logits = std::move(routed.logits);
}

// From what attention put out to the FFN's packed projection.
void DecoderLayer::enter_ffn(LayerSaved& saved) const {
  saved.middle =
      ops_.linear_add(saved.entry, saved.attention.out.flatten(1), unit_.group_compute("o"));
  saved.post_norm = ops_.rms_norm_forward(saved.middle, unit_.group_compute("post_norm"), eps_);
  saved.gate_up = ops_.linear_forward(saved.post_norm.normed, unit_.group_compute("gate_up"), {});
}

// From the gradient of the stream behind the FFN to that before it. Here memory is at its peak
// (docs/architecture.md), so that the SwiGLU works in place; it puts out once more what the forward
// did not save. Nothing of the FFN's is left after this.
at::Tensor DecoderLayer::ffn_backward(const at::Tensor& grad, LayerSaved& saved) const {
  SwigluGradients swiglu = ops_.swiglu_backward(
      ops_.linear_input_gradient(grad, unit_.group_compute("down")), saved.gate_up);
  saved.gate_up.reset();
  ops_.linear_weight_gradient(grad, swiglu.activated, unit_.take_gradient("down"));
  swiglu.activated.reset();
  const at::Tensor middle = std::move(saved.middle);
  const RmsNormOutput norm = std::move(saved.post_norm);
  const at::Tensor grad_hidden =
      ops_.linear_backward(swiglu.gate_up, norm.normed, unit_.group_compute("gate_up"),
                           unit_.take_gradient("gate_up"), {});
  return ops_.rms_norm_backward(grad_hidden, grad, middle, unit_.group_compute("post_norm"),
                                norm.inverse_rms, unit_.take_gradient("post_norm"));
}

// d(regularizer)/d(o_full - o_swa), where gamma depends on it and is not detached; else undefined.
// value = gamma softplus(s), dgamma/ddisagreement = -gamma^2 / base * weight.
at::Tensor DecoderLayer::difference_gradient(const MicroBatch& batch, const LayerSaved& saved,
                                             const at::Tensor& nll) const {
  const GammaCoefficients& gamma = objective_.gamma;
  if (!has_router() || !gamma.active() || gamma.constant || objective_.detach_gamma) return {};
  const RegularizerTerms terms =
      ops_.regularizer_gamma(gamma, saved.logits, nll, saved.attention.disagreement, batch.counted);
  at::Tensor grad =
      terms.value * terms.gamma *
      (-2.0 * gamma.disagreement_weight / (gamma.base * static_cast<double>(layers_)));
  if (objective_.disagreement == DisagreementReduction::kMean) {
    grad.div_(static_cast<double>(shape_.heads * shape_.head_dim));
  }
  return grad.view({-1, 1, 1}) * saved.attention.difference;
}

at::Tensor DecoderLayer::project_qkv(const at::Tensor& hidden, const MicroBatch& batch,
                                     LayerSaved& saved) const {
  const at::Tensor bias = qkv_bias_ ? unit_.group_compute("qkv_bias") : at::Tensor();
  at::Tensor qkv = ops_.linear_forward(hidden, unit_.group_compute("qkv"), bias);
  if (qk_norm_) {
    const auto norm = [&](const at::Tensor& heads, const char* group) {
      return ops_.head_norm_forward(heads, unit_.group_compute(group), eps_, batch.rotary);
    };
    saved.raw_queries = norm(shape_.queries(qkv), "q_norm");
    saved.raw_keys = norm(shape_.keys(qkv), "k_norm");
  } else {
    ops_.apply_rotary(shape_.queries_and_keys(qkv), batch.rotary, RotaryDirection::kForward);
  }
  return qkv;
}

at::Tensor DecoderLayer::project_qkv_backward(const at::Tensor& grad_qkv, const MicroBatch& batch,
                                              const LayerSaved& saved) const {
  if (qk_norm_) {
    const auto through = [&](const at::Tensor& grad, const at::Tensor& raw, const char* group) {
      ops_.head_norm_backward(grad, raw, unit_.group_compute(group), eps_, batch.rotary,
                              unit_.take_gradient(group));
    };
    through(shape_.queries(grad_qkv), saved.raw_queries, "q_norm");
    through(shape_.keys(grad_qkv), saved.raw_keys, "k_norm");
  } else {
    ops_.apply_rotary(shape_.queries_and_keys(grad_qkv), batch.rotary, RotaryDirection::kBackward);
  }
  return ops_.linear_backward(grad_qkv, saved.input_norm.normed, unit_.group_compute("qkv"),
                              unit_.take_gradient("qkv"),
                              qkv_bias_ ? unit_.take_gradient("qkv_bias") : GradientTarget());
}

// What is known before attention: the branch of every token, and which tokens get both.
void DecoderLayer::decide(const MicroBatch& batch, Branches branches, LayerSaved& saved) const {
  if (attention_ != LayerAttention::kSwitch) return;
  saved.attention.route = gate_.decide(ops_, saved.logits, batch, index_);
  if (branches != Branches::kSampled) return;
  SampledRows rows = gate_.sample(ops_, saved.logits, saved.attention.route, batch, index_);
  saved.attention.both = std::move(rows.both);
  saved.weight = std::move(rows.weight);
}

void DecoderLayer::attend(const MicroBatch& batch, Branches branches, LayerSaved& saved) const {
  SwitchSaved& attention = saved.attention;
  if (attention_ != LayerAttention::kSwitch) {
    Attended attended = backend_.forward(band(), saved.qkv, batch.layout, shape_);
    attention.out = std::move(attended.out);
    attention.logsumexp = std::move(attended.logsumexp);
  } else if (attention.both.defined()) {
    attention = backend_.attend_sampled(saved.qkv, attention.route, attention.both, batch.layout,
                                        shape_, objective_.disagreement);
  } else if (branches == Branches::kBoth) {
    attention = backend_.switch_forward(saved.qkv, attention.route, batch.layout, shape_,
                                        objective_.disagreement);
  } else {
    attention.out = backend_.attend_routed(saved.qkv, attention.route, batch.layout, shape_);
  }
}

at::Tensor DecoderLayer::attend_backward(const at::Tensor& grad_out,
                                         const at::Tensor& grad_difference, const MicroBatch& batch,
                                         const LayerSaved& saved,
                                         const at::Tensor& grad_qkv) const {
  if (attention_ == LayerAttention::kSwitch) {
    return switch_attention_backward(backend_, grad_out, grad_difference, saved.qkv,
                                     saved.attention, batch.layout, shape_, grad_qkv);
  }
  backend_.backward(band(), grad_out, saved.qkv, {saved.attention.out, saved.attention.logsumexp},
                    {}, batch.layout, shape_, grad_qkv, GradientSum::kWrite);
  return {};
}

Band DecoderLayer::band() const {
  return attention_ == LayerAttention::kWindow ? Band::kNear : Band::kFull;
}

at::Tensor DecoderLayer::route(const MicroBatch& batch, const LayerSaved& saved) const {
  if (attention_ == LayerAttention::kSwitch) return saved.attention.route;
  return at::full({batch.tokens()}, attention_ == LayerAttention::kFull, batch.counted.options());
}

RoutedTokens DecoderLayer::tokens(const MicroBatch& batch, const LayerSaved& saved) const {
  RoutedTokens tokens;
  tokens.taken = attention_ == LayerAttention::kSwitch ? BranchTaken::kRouted
                 : attention_ == LayerAttention::kFull ? BranchTaken::kFull
                                                       : BranchTaken::kWindow;
  tokens.route = saved.attention.route;
  tokens.position = batch.layout.position;
  tokens.counted = batch.counted;
  tokens.logits = saved.logits;
  tokens.disagreement = saved.attention.disagreement;
  tokens.weight = saved.weight;
  tokens.window = shape_.window;
  return tokens;
}

void DecoderLayer::write_statistics(const MicroBatch& batch, const LayerSaved& saved,
                                    const at::Tensor& row) const {
  ops_.count_routing(tokens(batch, saved), row);
}

}  // namespace swiattn
