#include "ops/fused_operations.h"

namespace swiattn {

const Operations& fused_operations() {
  static constexpr Operations kTable = {
      .name = "fused",
      .embedding_forward = reference::embedding_forward,
      .embedding_backward = fused::embedding_backward,
      .rms_norm_forward = fused::rms_norm_forward,
      .rms_norm_backward = fused::rms_norm_backward,
      .linear_forward = fused::linear_forward,
      .linear_add = fused::linear_add,
      .linear_backward = fused::linear_backward,
      .linear_input_gradient = fused::linear_input_gradient,
      .linear_weight_gradient = fused::linear_weight_gradient,
      .apply_rotary = fused::apply_rotary,
      .head_norm_forward = fused::head_norm_forward,
      .head_norm_backward = fused::head_norm_backward,
      .swiglu_forward = fused::swiglu_forward,
      .swiglu_backward = fused::swiglu_backward,
      .routed_norm_forward = fused::routed_norm_forward,
      .routed_norm_backward = fused::routed_norm_backward,
      .regularizer_gamma = reference::regularizer_gamma,
      .draw_rows = fused::draw_rows,
      .sample_rows = fused::sample_rows,
      .count_routing = fused::count_routing,
      .router_gradient = fused::router_gradient,
      .linear_cross_entropy_forward = fused::linear_cross_entropy_forward,
      .linear_cross_entropy_train = fused::linear_cross_entropy_train,
  };
  return kTable;
}

}  // namespace swiattn
