#include "judge.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/counter_random.h"

namespace swiattn::judge {
namespace {

at::Tensor norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x / (x.square().mean(-1, true) + eps).sqrt() * weight;
}

// Plain RoPE with the default frequencies. x [T, H, D].
at::Tensor rotate(const at::Tensor& x, const std::vector<int32_t>& positions, double theta) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor exponent = at::arange(half, at::kDouble) / static_cast<double>(half);
  const at::Tensor frequency = at::pow(theta, -exponent).to(at::kFloat).to(at::kDouble);
  const at::Tensor position =
      at::tensor(at::IntArrayRef(std::vector<int64_t>(positions.begin(), positions.end())));
  const at::Tensor angle = position.to(at::kDouble).view({-1, 1, 1}) * frequency;
  const at::Tensor a = x.slice(-1, 0, half), b = x.slice(-1, half);
  return at::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()}, -1);
}

// mask [T, T]: which keys a query sees among the nearest `reach` of its document.
at::Tensor sees(const Tokens& tokens, int64_t reach) {
  const int64_t total = tokens.sequences * tokens.length;
  at::Tensor mask = at::zeros({total, total}, at::kBool);
  for (size_t d = 0; d + 1 < tokens.starts.size(); ++d) {
    for (int64_t i = tokens.starts[d]; i < tokens.starts[d + 1]; ++i) {
      for (int64_t j = tokens.starts[d]; j <= i; ++j) {
        if (i - j < reach) mask[i][j] = true;
      }
    }
  }
  return mask;
}

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& mask) {
  const int64_t group = q.size(1) / k.size(1);
  const at::Tensor keys = k.repeat_interleave(group, 1), values = v.repeat_interleave(group, 1);
  at::Tensor scores = at::einsum("ihd,jhd->hij", {q, keys}) / std::sqrt(double(q.size(-1)));
  scores = scores.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
  return at::einsum("hij,jhd->ihd", {at::softmax(scores, -1), values});
}

at::Tensor choose(const Gate& gate, const at::Tensor& s, const Tokens& tokens, int64_t layer) {
  const int64_t total = tokens.sequences * tokens.length;
  if (gate.kind == GateKind::kLearned) return s > 0;
  at::Tensor route = at::zeros({total}, at::kBool);
  for (int64_t b = 0; b < tokens.sequences; ++b) {
    for (int64_t i = 0; i < tokens.length; ++i) {
      const int64_t t = b * tokens.length + i;
      if (gate.kind == GateKind::kRandom) {
        const uint64_t bits =
            counter_bits({gate.seed, static_cast<uint64_t>(layer),
                          static_cast<uint64_t>(tokens.samples[b]), static_cast<uint64_t>(i)});
        route[t] = uniform_from_bits(bits) < gate.ratio;
      } else {
        const at::Tensor row = s.slice(0, b * tokens.length, (b + 1) * tokens.length);
        // Equal tokens have equal logits in the first layer: the earlier of equals comes first.
        const auto above =
            (row > s[t]).sum().item<int64_t>() + (row.slice(0, 0, i) == s[t]).sum().item<int64_t>();
        route[t] = above < static_cast<int64_t>(std::ceil(gate.ratio * double(tokens.length)));
      }
    }
  }
  return route;
}

// The weight of every token's router gradient and regularizer [T]: 1 / probability where it was
// drawn, in float32, and 0 where not; 1 where it attends to everything or has no far key.
at::Tensor sampling_weight(const Gate& gate, const at::Tensor& s, const at::Tensor& route,
                           const Tokens& tokens, int64_t window, int64_t layer) {
  const int64_t total = tokens.sequences * tokens.length;
  at::Tensor weight = at::ones({total}, at::kDouble);
  if (!gate.far_sampling) return weight;
  for (size_t d = 0; d + 1 < tokens.starts.size(); ++d) {
    for (int64_t t = tokens.starts[d] + window; t < tokens.starts[d + 1]; ++t) {
      if (route[t].item<bool>()) continue;
      const double p = s.defined() ? 1 / (1 + std::exp(-s[t].item<double>())) : gate.ratio;
      const double probability = std::min(
          1.0, std::max(gate.far_sampling->minimum, gate.far_sampling->scale * p * (1 - p)));
      const uint64_t bits = counter_bits({0x666172726f7773, gate.seed, static_cast<uint64_t>(layer),
                                          static_cast<uint64_t>(tokens.samples[t / tokens.length]),
                                          static_cast<uint64_t>(t % tokens.length)});
      const bool drawn = uniform_from_bits(bits) < probability;
      weight[t] = drawn ? static_cast<double>(static_cast<float>(1 / probability)) : 0.0;
    }
  }
  return weight;
}

}  // namespace

Tokens random_tokens(int64_t sequences, int64_t length, int64_t vocab_size, uint64_t seed,
                     const std::vector<int64_t>& document_lengths) {
  std::mt19937_64 random(seed);
  Tokens tokens{.sequences = sequences, .length = length};
  size_t document = 0;
  int64_t left = document_lengths.empty() ? length : document_lengths[0];
  for (int64_t b = 0; b < sequences; ++b) {
    tokens.samples.push_back(static_cast<int64_t>(100 + 7 * b));
    for (int64_t i = 0, position = 0; i < length; ++i) {
      if (i == 0 || left == 0) {
        if (left == 0) {
          left = document_lengths.empty() ? length
                                          : document_lengths[++document % document_lengths.size()];
        }
        tokens.starts.push_back(static_cast<int32_t>(b * length + i));
        position = 0;
      }
      --left;
      tokens.inputs.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size)));
      tokens.positions.push_back(static_cast<int32_t>(position++));
      const bool document_ends = !document_lengths.empty() && left == 0;
      tokens.targets.push_back(
          document_ends ? -1 : static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size)));
    }
  }
  tokens.starts.push_back(static_cast<int32_t>(sequences * length));
  return tokens;
}

Verdict evaluate(const ModelConfig& config, const std::vector<LayerAttention>& attention,
                 int64_t window, const Gate& gate, const Regularizer& regularizer,
                 const std::map<std::string, at::Tensor>& weights, const Tokens& tokens) {
  const int64_t total = tokens.sequences * tokens.length;
  const auto w = [&](const std::string& name) { return weights.at(name); };
  const auto index = [](const std::vector<int32_t>& v) {
    return at::tensor(at::IntArrayRef(std::vector<int64_t>(v.begin(), v.end())));
  };
  const at::Tensor everything = sees(tokens, total), nearby = sees(tokens, window);

  at::Tensor x = w("model.embed_tokens.weight").index_select(0, index(tokens.inputs));
  std::vector<at::Tensor> logits, disagreements, weights_of_ds;
  Verdict verdict;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string p = fmt::format("model.layers.{}.", layer);
    const at::Tensor h = norm(x, w(p + "input_layernorm.weight"), config.rms_norm_eps);
    const auto project = [&](const char* name, int64_t heads) {
      at::Tensor y = at::matmul(h, w(p + "self_attn." + name + "_proj.weight").t());
      if (config.qkv_bias) y = y + w(p + "self_attn." + name + "_proj.bias");
      return y.view({total, heads, config.head_dim});
    };
    at::Tensor q = project("q", config.heads), k = project("k", config.kv_heads);
    const at::Tensor v = project("v", config.kv_heads);
    if (config.qk_norm) {
      q = norm(q, w(p + "self_attn.q_norm.weight"), config.rms_norm_eps);
      k = norm(k, w(p + "self_attn.k_norm.weight"), config.rms_norm_eps);
    }
    q = rotate(q, tokens.positions, config.rope_theta);
    k = rotate(k, tokens.positions, config.rope_theta);

    const at::Tensor full = attend(q, k, v, everything), near = attend(q, k, v, nearby);
    const LayerAttention kind = attention[static_cast<size_t>(layer)];
    at::Tensor o = kind == LayerAttention::kWindow ? near : full;
    at::Tensor route = at::full({total}, kind == LayerAttention::kFull, at::kBool);
    if (kind == LayerAttention::kSwitch) {
      at::Tensor s;
      if (gate.has_router()) {
        s = at::matmul(h, w(p + "self_attn.router.weight").flatten());
        logits.push_back(s);
        const at::Tensor squares = (full - near).square();
        disagreements.push_back(regularizer.mean ? squares.mean({1, 2}) : squares.sum({1, 2}));
      }
      route = choose(gate, s, tokens, layer);
      const at::Tensor weight = sampling_weight(gate, s, route, tokens, window, layer);
      at::Tensor g = route.to(at::kDouble);
      if (s.defined()) {
        g = g + weight * (at::sigmoid(s) - at::sigmoid(s).detach());
        weights_of_ds.push_back(weight);
      }
      g = g.view({-1, 1, 1});
      o = g * full + (1 - g) * near;
    }
    verdict.routes.push_back(route);
    x = x + at::matmul(o.flatten(1), w(p + "self_attn.o_proj.weight").t());
    const at::Tensor f = norm(x, w(p + "post_attention_layernorm.weight"), config.rms_norm_eps);
    const at::Tensor gated = at::matmul(f, w(p + "mlp.gate_proj.weight").t());
    const at::Tensor up = at::matmul(f, w(p + "mlp.up_proj.weight").t());
    x = x + at::matmul(gated * at::sigmoid(gated) * up, w(p + "mlp.down_proj.weight").t());
  }
  x = norm(x, w("model.norm.weight"), config.rms_norm_eps);
  const at::Tensor head =
      w(config.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  const at::Tensor targets = index(tokens.targets), counted = targets >= 0;
  const at::Tensor chosen =
      at::log_softmax(at::matmul(x, head.t()), -1).gather(1, targets.clamp_min(0).unsqueeze(1));
  verdict.nll = -chosen.squeeze(1) * counted;
  verdict.loss_sum = verdict.nll.sum();

  verdict.regularizer_sum = at::zeros({}, at::kDouble);
  if (regularizer.kind != "none") {
    for (size_t l = 0; l < logits.size(); ++l) {
      at::Tensor denominator = at::full_like(logits[l], regularizer.eps);
      if (regularizer.kind != "no_nll") denominator = denominator + verdict.nll;
      if (regularizer.kind != "no_disagreement") {
        denominator = denominator + regularizer.alpha * disagreements[l];
      }
      at::Tensor gamma = regularizer.gamma / denominator;
      if (regularizer.kind == "constant") gamma = at::full_like(logits[l], regularizer.gamma);
      if (regularizer.detach) gamma = gamma.detach();
      const at::Tensor softplus = at::log1p(at::exp(logits[l]));
      verdict.regularizer_sum =
          verdict.regularizer_sum + (weights_of_ds[l] * gamma * softplus * counted).sum() /
                                        static_cast<double>(config.layers);
    }
  }
  return verdict;
}

}  // namespace swiattn::judge
