#include <ATen/ATen.h>

#include "ops/fused_operations.h"
#include "ops/fused_tensors.h"
#include "ops/gpu_kernels.h"

namespace swiattn::fused {
namespace {

gpu::DrawArguments draw_arguments(const DrawnTokens& tokens) {
  return {tokens.seed, tokens.layer, tokens.samples.const_data_ptr<int64_t>(),
          tokens.sequence_length, tokens.tokens()};
}

}  // namespace

at::Tensor draw_rows(const DrawnTokens& tokens, double probability) {
  at::Tensor rows = at::empty({tokens.tokens()}, tokens.samples.options().dtype(at::kBool));
  gpu::draw_rows(draw_arguments(tokens), probability, rows.mutable_data_ptr<bool>(),
                 current_stream());
  return rows;
}

SampledRows sample_rows(const DrawnTokens& tokens, const FarSampling& sampling,
                        const GatedTokens& gated) {
  if (gated.logits.defined() && gated.logits.scalar_type() != at::kFloat) {
    return reference::sample_rows(tokens, sampling, gated);
  }
  const auto options = tokens.samples.options();
  SampledRows rows{at::empty({tokens.tokens()}, options.dtype(at::kBool)),
                   at::empty({tokens.tokens()}, options.dtype(at::kFloat))};
  gpu::sample_rows(
      {draw_arguments(tokens), sampling, optional_data<float>(gated.logits), gated.ratio,
       gated.route.const_data_ptr<bool>(), gated.position.const_data_ptr<int64_t>(), gated.window,
       rows.both.mutable_data_ptr<bool>(), rows.weight.mutable_data_ptr<float>()},
      current_stream());
  return rows;
}

}  // namespace swiattn::fused
