// The operations of a layer as CUDA kernels for bfloat16. Each has the contract of its header
// (rms_norm.h …) and falls back to the reference for shapes and types that its kernel does not
// cover.
#pragma once

#include "ops/operations.h"

namespace swiattn {

const Operations& fused_operations();

namespace fused {

EmbeddingBackward embedding_backward;
RmsNormForward rms_norm_forward;
RmsNormBackward rms_norm_backward;
LinearForward linear_forward;
LinearAdd linear_add;
LinearBackward linear_backward;
LinearInputGradient linear_input_gradient;
LinearWeightGradient linear_weight_gradient;
ApplyRotary apply_rotary;
HeadNormForward head_norm_forward;
HeadNormBackward head_norm_backward;
SwigluForward swiglu_forward;
SwigluBackward swiglu_backward;
RoutedNormForward routed_norm_forward;
RoutedNormBackward routed_norm_backward;
DrawRows draw_rows;
SampleRows sample_rows;
CountRouting count_routing;
RouterGradient router_gradient;
LinearCrossEntropyForward linear_cross_entropy_forward;
LinearCrossEntropyTrain linear_cross_entropy_train;

}  // namespace fused
}  // namespace swiattn
