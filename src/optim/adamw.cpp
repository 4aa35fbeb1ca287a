#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "base/check.h"
#include "optim/adamw_kernel.h"
#ifdef SWIATTN_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace swiattn {
namespace {

AdamWSpan span_of(FlatUnit& unit, const Segment& segment) {
  const auto at_offset = [&](const at::Tensor& buffer) {
    return buffer.mutable_data_ptr<float>() + segment.offset;
  };
  AdamWSpan span;
  span.master = at_offset(unit.master);
  span.gradient = at_offset(unit.gradient);
  span.moment1 = at_offset(unit.moment1);
  span.moment2 = at_offset(unit.moment2);
  span.count = segment.spec.numel();
  if (unit.compute.scalar_type() == at::kBFloat16) {
    span.compute_bf16 = unit.compute.mutable_data_ptr<at::BFloat16>() + segment.offset;
  }
  return span;
}

void update_on_host(const AdamWSpan& span, const AdamWConstants& c, float factor, float correction1,
                    float correction2) {
  constexpr int64_t kGrain = 1 << 15;
  at::parallel_for(0, span.count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float g = factor * span.gradient[i];
      const float m = c.beta1 * span.moment1[i] + (1.0F - c.beta1) * g;
      const float v = c.beta2 * span.moment2[i] + (1.0F - c.beta2) * g * g;
      span.moment1[i] = m;
      span.moment2[i] = v;
      const float update = (m / correction1) / (std::sqrt(v / correction2) + c.eps);
      span.master[i] -= span.learning_rate * (update + span.decay * span.master[i]);
    }
  });
}

float bias_correction(double beta, int64_t updates) {
  return static_cast<float>(1.0 - std::pow(beta, static_cast<double>(updates)));
}

}  // namespace

AdamW::AdamW(const AdamWSettings& settings, FlatParameters& parameters)
    : settings_(settings),
      parameters_(parameters),
      updates_(at::zeros({}, at::TensorOptions().dtype(at::kLong).device(parameters.device()))) {}

double AdamW::rate_multiplier(const Segment& segment) const {
  return segment.spec.role == ParameterRole::kRouter ? settings_.router_rate_multiplier : 1.0;
}

double AdamW::decay(const Segment& segment) const {
  return segment.spec.role == ParameterRole::kMatrix ? settings_.weight_decay : 0.0;
}

void AdamW::step(double learning_rate, const at::Tensor& factor, const at::Tensor& apply) {
  const AdamWConstants constants{static_cast<float>(settings_.beta1),
                                 static_cast<float>(settings_.beta2),
                                 static_cast<float>(settings_.eps)};
  const bool on_host = parameters_.device().is_cpu();
  if (on_host && apply.item<double>() == 0.0) return;
  updates_.add_(apply.to(at::kLong));
  const int64_t updates = on_host ? updates_.item<int64_t>() : 0;
  const float correction1 = bias_correction(settings_.beta1, updates);
  const float correction2 = bias_correction(settings_.beta2, updates);

  for (FlatUnit& unit : parameters_.units()) {
    for (const Segment& segment : unit.segments) {
      if (!segment.trainable) continue;
      AdamWSpan span = span_of(unit, segment);
      span.learning_rate = static_cast<float>(learning_rate * rate_multiplier(segment));
      span.decay = static_cast<float>(decay(segment));
      if (on_host) {
        update_on_host(span, constants, static_cast<float>(factor.item<double>()), correction1,
                       correction2);
        continue;
      }
#ifdef SWIATTN_CUDA
      adamw_on_gpu(span, constants, factor.const_data_ptr<double>(), apply.const_data_ptr<double>(),
                   updates_.const_data_ptr<int64_t>(), c10::cuda::getCurrentCUDAStream().stream());
#endif
    }
  }
  if (on_host) parameters_.refresh_compute_copies();
}

}  // namespace swiattn
