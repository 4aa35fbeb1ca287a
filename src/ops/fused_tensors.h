// What the fused operations share: how a tensor reaches a kernel, and which tensors can.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstdint>

#include "ops/gpu_kernels.h"
#include "parallel/gpu_stream.h"
#include "parallel/gradient_target.h"

namespace swiattn::fused {

inline const void* data(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}

template <class T>
const T* optional_data(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

// What a kernel that takes whole vectors along the last dimension can read.
inline bool vectors(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 && tensor.is_contiguous() &&
         tensor.size(-1) % 8 == 0 && reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

// A column sum into `target`, with room for the sums of the blocks.
struct ColumnSum {
  at::Tensor partial;
  gpu::ColumnSum arguments = {};

  ColumnSum(const GradientTarget& target, int64_t blocks, int64_t width) {
    if (!target.defined()) return;
    partial = at::empty({blocks, width}, target.tensor.options());
    arguments = {partial.mutable_data_ptr<float>(), target.tensor.mutable_data_ptr<float>(),
                 target.sum};
  }
};

}  // namespace swiattn::fused
