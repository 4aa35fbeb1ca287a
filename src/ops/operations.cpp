#include "ops/operations.h"

#ifdef SWIATTN_CUDA
#include "ops/fused_operations.h"
#endif

namespace swiattn {

const Operations& reference_operations() {
  static constexpr Operations kTable = {
      .name = "reference",
      .embedding_forward = reference::embedding_forward,
      .embedding_backward = reference::embedding_backward,
      .rms_norm_forward = reference::rms_norm_forward,
      .rms_norm_backward = reference::rms_norm_backward,
      .linear_forward = reference::linear_forward,
      .linear_add = reference::linear_add,
      .linear_backward = reference::linear_backward,
      .linear_input_gradient = reference::linear_input_gradient,
      .linear_weight_gradient = reference::linear_weight_gradient,
      .apply_rotary = reference::apply_rotary,
      .head_norm_forward = reference::head_norm_forward,
      .head_norm_backward = reference::head_norm_backward,
      .swiglu_forward = reference::swiglu_forward,
      .swiglu_backward = reference::swiglu_backward,
      .routed_norm_forward = reference::routed_norm_forward,
      .routed_norm_backward = reference::routed_norm_backward,
      .regularizer_gamma = reference::regularizer_gamma,
      .draw_rows = reference::draw_rows,
      .sample_rows = reference::sample_rows,
      .count_routing = reference::count_routing,
      .router_gradient = reference::router_gradient,
      .linear_cross_entropy_forward = reference::linear_cross_entropy_forward,
      .linear_cross_entropy_train = reference::linear_cross_entropy_train,
  };
  return kTable;
}

const Operations& operations_for(c10::Device device) {
#ifdef SWIATTN_CUDA
  if (device.is_cuda()) return fused_operations();
#endif
  return reference_operations();
}

}  // namespace swiattn
