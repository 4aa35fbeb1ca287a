#include "ops/drawn_rows.h"

#include <ATen/ATen.h>

namespace swiattn::reference {
namespace {

// Calls draw(token index, its counters) for each.
template <class Draw>
void for_each_token(const DrawnTokens& tokens, const Draw& draw) {
  const at::Tensor samples = tokens.samples.cpu();
  const auto* sample = samples.const_data_ptr<int64_t>();
  int64_t token = 0;
  for (int64_t b = 0; b < samples.size(0); ++b) {
    for (int64_t position = 0; position < tokens.sequence_length; ++position) {
      draw(token++,
           TokenCounters{tokens.seed, static_cast<uint64_t>(tokens.layer),
                         static_cast<uint64_t>(sample[b]), static_cast<uint64_t>(position)});
    }
  }
}

}  // namespace

at::Tensor draw_rows(const DrawnTokens& tokens, double probability) {
  at::Tensor rows = at::empty({tokens.tokens()}, at::kBool);
  bool* drawn = rows.mutable_data_ptr<bool>();
  for_each_token(tokens, [&](int64_t token, const TokenCounters& counters) {
    drawn[token] = gate_draw(counters) < probability;
  });
  return rows.to(tokens.samples.device());
}

SampledRows sample_rows(const DrawnTokens& tokens, const FarSampling& sampling,
                        const GatedTokens& gated) {
  const at::Tensor logits =
      gated.logits.defined() ? gated.logits.cpu().to(at::kDouble) : at::empty({0}, at::kDouble);
  const at::Tensor route = gated.route.cpu(), position = gated.position.cpu();
  const bool has_logits = gated.logits.defined();
  const auto* logit = logits.const_data_ptr<double>();
  const bool* routed = route.const_data_ptr<bool>();
  const auto* index = position.const_data_ptr<int64_t>();
  SampledRows rows{at::empty({tokens.tokens()}, at::kBool), at::empty({tokens.tokens()})};
  bool* both = rows.both.mutable_data_ptr<bool>();
  auto* weight = rows.weight.mutable_data_ptr<float>();
  for_each_token(tokens, [&](int64_t token, const TokenCounters& counters) {
    const double variance =
        has_logits ? gate_variance(logit[token]) : gated.ratio * (1.0 - gated.ratio);
    const SampledToken sampled =
        sample_token(sampling, counters, variance, routed[token], index[token] >= gated.window);
    both[token] = sampled.both;
    weight[token] = sampled.weight;
  });
  const c10::Device device = tokens.samples.device();
  return {rows.both.to(device), rows.weight.to(device)};
}

}  // namespace swiattn::reference
