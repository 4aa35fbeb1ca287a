#include <ATen/ATen.h>

#include "ops/fused_operations.h"
#include "ops/fused_tensors.h"
#include "ops/gpu_kernels.h"

namespace swiattn::fused {
namespace {

// Rows that the kernels of the norm can read. Without any row they would write no column sum.
bool norm_rows(const at::Tensor& tensor) {
  return vectors(tensor) && tensor.size(0) > 0 && tensor.size(-1) <= gpu::kMaxRmsNormWidth;
}

RoutedNormOutput norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps,
                              const at::Tensor& router_weight) {
  const auto wide = x.options().dtype(at::kFloat);
  RoutedNormOutput out;
  RmsNormOutput& norm = out.norm;
  norm.normed = at::empty_like(x);
  norm.inverse_rms = at::empty({x.size(0)}, wide);
  if (router_weight.defined()) out.logits = at::empty({x.size(0)}, wide);
  gpu::rms_norm_forward({data(x), data(weight), optional_data<float>(router_weight),
                         norm.normed.mutable_data_ptr(), norm.inverse_rms.mutable_data_ptr<float>(),
                         router_weight.defined() ? out.logits.mutable_data_ptr<float>() : nullptr,
                         x.size(0), x.size(1), static_cast<float>(eps)},
                        current_stream());
  return out;
}

// The router's gradient is undefined without one.
struct RouterPart {
  at::Tensor grad_logits;
  at::Tensor weight;
  GradientTarget grad_weight;
};

at::Tensor norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_residual,
                         const at::Tensor& x, const at::Tensor& weight,
                         const at::Tensor& inverse_rms, const GradientTarget& grad_weight,
                         const RouterPart& router) {
  const int64_t rows = x.size(0), width = x.size(1);
  const int64_t blocks = gpu::rms_norm_backward_blocks(rows, width, router.grad_logits.defined());
  const ColumnSum weight_sum(grad_weight, blocks, width);
  const ColumnSum router_sum(router.grad_weight, blocks, width);
  at::Tensor grad_x = at::empty_like(x);
  gpu::rms_norm_backward(
      {data(grad_normed), data(grad_residual), data(x), data(weight),
       inverse_rms.const_data_ptr<float>(), optional_data<float>(router.grad_logits),
       optional_data<float>(router.weight), grad_x.mutable_data_ptr(), weight_sum.arguments,
       router_sum.arguments, rows, width},
      blocks, current_stream());
  return grad_x;
}

}  // namespace

RmsNormOutput rms_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (!norm_rows(x)) return reference::rms_norm_forward(x, weight, eps);
  return norm_forward(x, weight, eps, {}).norm;
}

at::Tensor rms_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_residual,
                             const at::Tensor& x, const at::Tensor& weight,
                             const at::Tensor& inverse_rms, const GradientTarget& grad_weight) {
  if (!norm_rows(x) || !vectors(grad_normed) ||
      (grad_residual.defined() && !vectors(grad_residual))) {
    return reference::rms_norm_backward(grad_normed, grad_residual, x, weight, inverse_rms,
                                        grad_weight);
  }
  return norm_backward(grad_normed, grad_residual, x, weight, inverse_rms, grad_weight, {});
}

RoutedNormOutput routed_norm_forward(const at::Tensor& x, const at::Tensor& norm_weight, double eps,
                                     const at::Tensor& router_weight) {
  if (!norm_rows(x)) return reference::routed_norm_forward(x, norm_weight, eps, router_weight);
  return norm_forward(x, norm_weight, eps, router_weight);
}

at::Tensor routed_norm_backward(const at::Tensor& grad_normed, const at::Tensor& grad_logits,
                                const at::Tensor& grad_residual, const at::Tensor& x,
                                const RmsNormOutput& saved, const at::Tensor& norm_weight,
                                const at::Tensor& router_weight,
                                const GradientTarget& grad_norm_weight,
                                const GradientTarget& grad_router_weight) {
  if (!norm_rows(x) || !vectors(grad_normed) || !vectors(grad_residual)) {
    return reference::routed_norm_backward(grad_normed, grad_logits, grad_residual, x, saved,
                                           norm_weight, router_weight, grad_norm_weight,
                                           grad_router_weight);
  }
  return norm_backward(grad_normed, grad_residual, x, norm_weight, saved.inverse_rms,
                       grad_norm_weight, {grad_logits, router_weight, grad_router_weight});
}

}  // namespace swiattn::fused
