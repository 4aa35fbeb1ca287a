// Linear layers on a GPU in bfloat16: the weight's gradient goes from the tensor cores straight
// into the float32 buffer (beta 0 or 1), so that accumulating it over micro-batches costs no pass
// of its own.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <cublas_v2.h>

#include "base/check.h"
#include "ops/fused_operations.h"

namespace swiattn::fused {
namespace {

void check_cublas(cublasStatus_t status) {
  SWIATTN_CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLAS failed: {}",
                cublasGetStatusString(status));
}

bool supported(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 && tensor.stride(-1) == 1 && tensor.size(0) > 0;
}

// C [m, n] = A^T B + beta C with row-major bf16 A [k, m] and B [k, n], or C = A B^T with A [m, k]
// and B [n, k]; C float32. cuBLAS is column-major: it computes C^T.
enum class Form { kTransposedFirst, kTransposedSecond };
void gemm_float32(Form form, const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
                  float beta) {
  const bool first = form == Form::kTransposedFirst;
  const auto m = static_cast<int>(c.size(0));
  const auto n = static_cast<int>(c.size(1));
  const auto k = static_cast<int>(first ? a.size(0) : a.size(1));
  const float one = 1.0F;
  check_cublas(cublasGemmEx(at::cuda::getCurrentCUDABlasHandle(), first ? CUBLAS_OP_N : CUBLAS_OP_T,
                            first ? CUBLAS_OP_T : CUBLAS_OP_N, n, m, k, &one, b.const_data_ptr(),
                            CUDA_R_16BF, static_cast<int>(b.stride(0)), a.const_data_ptr(),
                            CUDA_R_16BF, static_cast<int>(a.stride(0)), &beta, c.mutable_data_ptr(),
                            CUDA_R_32F, static_cast<int>(c.stride(0)), CUBLAS_COMPUTE_32F,
                            CUBLAS_GEMM_DEFAULT));
}

}  // namespace

at::Tensor linear_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                           const GradientTarget& grad_weight, const GradientTarget& grad_bias) {
  fused::linear_weight_gradient(grad, x, grad_weight);
  return reference::linear_backward(grad, x, weight, {}, grad_bias);
}

void linear_weight_gradient(const at::Tensor& grad, const at::Tensor& x,
                            const GradientTarget& grad_weight) {
  if (!grad_weight.defined()) return;
  if (!supported(grad) || !supported(x)) {
    return reference::linear_weight_gradient(grad, x, grad_weight);
  }
  gemm_float32(Form::kTransposedFirst, grad, x, grad_weight.tensor,
               grad_weight.sum == GradientSum::kAdd ? 1.0F : 0.0F);
}

void float32_logits(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& logits) {
  gemm_float32(Form::kTransposedSecond, hidden, weight, logits, 0.0F);
}

}  // namespace swiattn::fused
