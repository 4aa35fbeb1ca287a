#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <type_traits>

#ifdef SWIATTN_CUDA
#include "parallel/gpu_stream.h"
#endif

namespace swiattn {
namespace {

AdamWBuffers buffers_of(FlatUnit& unit, size_t index) {
  AdamWBuffers buffers;
  buffers.master = unit.master.mutable_data_ptr<float>();
  buffers.gradient = unit.gradient.const_data_ptr<float>();
  buffers.moment1 = unit.moment1.mutable_data_ptr();
  buffers.moment2 = unit.moment2.mutable_data_ptr();
  if (unit.compute.scalar_type() == at::kBFloat16) {
    buffers.compute_bf16 = unit.compute.mutable_data_ptr<at::BFloat16>();
  }
  if (unit.moment1.scalar_type() == at::kBFloat16) buffers.moments = MomentType::kBfloat16;
  buffers.unit = index;
  return buffers;
}

// `Moment`: float or at::BFloat16, to which a rounded moment converts exactly.
template <class Moment>
void update_on_host(const AdamWBuffers& b, const AdamWSpan& span, const AdamWConstants& constants,
                    const AdamWFactors& factors) {
  constexpr int64_t kGrain = 1 << 15;
  auto* moment1 = static_cast<Moment*>(b.moment1);
  auto* moment2 = static_cast<Moment*>(b.moment2);
  at::parallel_for(span.begin, span.end, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      AdamWElement x = update_element(
          {b.master[i], static_cast<float>(moment1[i]), static_cast<float>(moment2[i])},
          b.gradient[i], span, constants, factors);
      if constexpr (std::is_same_v<Moment, at::BFloat16>) {
        const uint64_t word = rounding_word(factors.rounding_key, i / 2);
        x.moment1 = round_stochastically(x.moment1, rounding_draw(word, i % 2, 0));
        x.moment2 = round_stochastically(x.moment2, rounding_draw(word, i % 2, 1));
      }
      b.master[i] = x.master;
      moment1[i] = x.moment1;
      moment2[i] = x.moment2;
    }
  });
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

std::vector<AdamWSpan> AdamW::spans(const FlatUnit& unit, double learning_rate) const {
  std::vector<AdamWSpan> spans;
  for (const Segment& segment : unit.segments) {
    if (!segment.trainable) continue;
    const AdamWSpan span{segment.offset, segment.offset + segment.spec.numel(),
                         static_cast<float>(learning_rate * rate_multiplier(segment)),
                         static_cast<float>(decay(segment))};
    const bool goes_on = !spans.empty() && spans.back().end == span.begin &&
                         spans.back().learning_rate == span.learning_rate &&
                         spans.back().decay == span.decay;
    if (goes_on) {
      spans.back().end = span.end;
    } else {
      spans.push_back(span);
    }
  }
  return spans;
}

void AdamW::step(double learning_rate, const at::Tensor& factor, const at::Tensor& apply) {
  const AdamWConstants constants{settings_.beta1, settings_.beta2,
                                 static_cast<float>(settings_.eps), settings_.seed};
  if (!parameters_.device().is_cpu()) {
    step_on_gpu(learning_rate, constants, factor, apply);
    return;
  }
  if (apply.item<double>() == 0.0) return;
  updates_.add_(1);
  for (size_t i = 0; i < parameters_.units().size(); ++i) {
    FlatUnit& unit = parameters_.units()[i];
    if (unit.trainable_numel == 0) continue;
    const AdamWBuffers buffers = buffers_of(unit, i);
    const AdamWFactors factors =
        adamw_factors(constants, i, factor.item<double>(), updates_.item<int64_t>());
    const auto update = buffers.moments == MomentType::kBfloat16 ? update_on_host<at::BFloat16>
                                                                 : update_on_host<float>;
    for (const AdamWSpan& span : spans(unit, learning_rate)) {
      update(buffers, span, constants, factors);
    }
  }
  parameters_.refresh_compute_copies();
}

void AdamW::step_on_gpu(double learning_rate, const AdamWConstants& constants,
                        const at::Tensor& factor, const at::Tensor& apply) {
#ifdef SWIATTN_CUDA
  updates_.add_(apply.to(at::kLong));
  for (size_t i = 0; i < parameters_.units().size(); ++i) {
    FlatUnit& unit = parameters_.units()[i];
    if (unit.trainable_numel == 0) continue;
    adamw_on_gpu(buffers_of(unit, i), spans(unit, learning_rate), constants,
                 factor.const_data_ptr<double>(), apply.const_data_ptr<double>(),
                 updates_.const_data_ptr<int64_t>(), current_stream());
  }
#endif
}

}  // namespace swiattn
