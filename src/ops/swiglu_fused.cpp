#include <ATen/ATen.h>

#include "ops/fused_operations.h"
#include "ops/fused_tensors.h"
#include "ops/gpu_kernels.h"

namespace swiattn::fused {

at::Tensor swiglu_forward(const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  if (!vectors(gate_up) || width % 8 != 0) return reference::swiglu_forward(gate_up);
  at::Tensor out = at::empty({gate_up.size(0), width}, gate_up.options());
  gpu::swiglu_forward(data(gate_up), out.mutable_data_ptr(), gate_up.size(0), width,
                      current_stream());
  return out;
}

SwigluGradients swiglu_backward(const at::Tensor& grad, const at::Tensor& gate_up) {
  const int64_t width = gate_up.size(1) / 2;
  if (!vectors(gate_up) || !vectors(grad) || width % 8 != 0) {
    return reference::swiglu_backward(grad, gate_up);
  }
  gpu::swiglu_backward(gate_up.mutable_data_ptr(), grad.mutable_data_ptr(), gate_up.size(0), width,
                       current_stream());
  return {gate_up, grad};
}

}  // namespace swiattn::fused
