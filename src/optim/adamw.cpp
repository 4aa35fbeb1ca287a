#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#ifdef SWIATTN_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace swiattn {
namespace {

AdamWBuffers buffers_of(FlatUnit& unit) {
  AdamWBuffers buffers;
  buffers.master = unit.master.mutable_data_ptr<float>();
  buffers.gradient = unit.gradient.const_data_ptr<float>();
  buffers.moment1 = unit.moment1.mutable_data_ptr<float>();
  buffers.moment2 = unit.moment2.mutable_data_ptr<float>();
  if (unit.compute.scalar_type() == at::kBFloat16) {
    buffers.compute_bf16 = unit.compute.mutable_data_ptr<at::BFloat16>();
  }
  return buffers;
}

void update_on_host(const AdamWBuffers& b, const AdamWSpan& span, const AdamWConstants& constants,
                    const AdamWFactors& factors) {
  constexpr int64_t kGrain = 1 << 15;
  at::parallel_for(span.begin, span.end, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const AdamWElement updated = update_element({b.master[i], b.moment1[i], b.moment2[i]},
                                                  b.gradient[i], span, constants, factors);
      b.master[i] = updated.master;
      b.moment1[i] = updated.moment1;
      b.moment2[i] = updated.moment2;
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
                                 static_cast<float>(settings_.eps)};
  if (!parameters_.device().is_cpu()) {
    step_on_gpu(learning_rate, constants, factor, apply);
    return;
  }
  if (apply.item<double>() == 0.0) return;
  updates_.add_(1);
  const AdamWFactors factors =
      adamw_factors(constants, factor.item<double>(), updates_.item<int64_t>());
  for (FlatUnit& unit : parameters_.units()) {
    if (unit.trainable_numel == 0) continue;
    for (const AdamWSpan& span : spans(unit, learning_rate)) {
      update_on_host(buffers_of(unit), span, constants, factors);
    }
  }
  parameters_.refresh_compute_copies();
}

void AdamW::step_on_gpu(double learning_rate, const AdamWConstants& constants,
                        const at::Tensor& factor, const at::Tensor& apply) {
#ifdef SWIATTN_CUDA
  updates_.add_(apply.to(at::kLong));
  for (FlatUnit& unit : parameters_.units()) {
    if (unit.trainable_numel == 0) continue;
    adamw_on_gpu(buffers_of(unit), spans(unit, learning_rate), constants,
                 factor.const_data_ptr<double>(), apply.const_data_ptr<double>(),
                 updates_.const_data_ptr<int64_t>(), c10::cuda::getCurrentCUDAStream().stream());
  }
#endif
}

}  // namespace swiattn
