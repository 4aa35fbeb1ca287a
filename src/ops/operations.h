// The one table through which layers reach their operations. `reference` is plain ATen, runs on any
// device and in float64, and is what every other implementation is judged by.
#pragma once

#include "ops/drawn_rows.h"
#include "ops/embedding.h"
#include "ops/head_norm.h"
#include "ops/linear.h"
#include "ops/linear_cross_entropy.h"
#include "ops/regularizer_gamma.h"
#include "ops/rms_norm.h"
#include "ops/rotary.h"
#include "ops/router.h"
#include "ops/routing.h"
#include "ops/swiglu.h"

#include <c10/core/Device.h>

namespace swiattn {

struct Operations {
  const char* name;
  EmbeddingForward* embedding_forward;
  EmbeddingBackward* embedding_backward;
  RmsNormForward* rms_norm_forward;
  RmsNormBackward* rms_norm_backward;
  LinearForward* linear_forward;
  LinearAdd* linear_add;
  LinearBackward* linear_backward;
  LinearInputGradient* linear_input_gradient;
  LinearWeightGradient* linear_weight_gradient;
  ApplyRotary* apply_rotary;
  HeadNormForward* head_norm_forward;
  HeadNormBackward* head_norm_backward;
  SwigluForward* swiglu_forward;
  SwigluBackward* swiglu_backward;
  RoutedNormForward* routed_norm_forward;
  RoutedNormBackward* routed_norm_backward;
  RegularizerGamma* regularizer_gamma;
  DrawRows* draw_rows;
  SampleRows* sample_rows;
  CountRouting* count_routing;
  RouterGradient* router_gradient;
  LinearCrossEntropyForward* linear_cross_entropy_forward;
  LinearCrossEntropyTrain* linear_cross_entropy_train;
};

const Operations& reference_operations();

// The fastest table of this build for a device: `fused` on a GPU, `reference` elsewhere.
const Operations& operations_for(c10::Device device);

}  // namespace swiattn
