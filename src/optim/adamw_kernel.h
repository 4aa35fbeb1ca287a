// The arithmetic of one AdamW update over one contiguous span, on a CPU and on a GPU.
#pragma once

#include <cstdint>

namespace swiattn {

// One span of a unit's flat buffers: elements that decay alike at the same rate. Device pointers on
// a GPU. `compute` is null when there is no separate copy.
struct AdamWSpan {
  float* master = nullptr;
  const float* gradient = nullptr;
  float* moment1 = nullptr;
  float* moment2 = nullptr;
  void* compute_bf16 = nullptr;
  int64_t count = 0;
  float learning_rate = 0.0F;
  float decay = 0.0F;
};

struct AdamWConstants {
  float beta1 = 0.0F;
  float beta2 = 0.0F;
  float eps = 0.0F;
};

#ifdef SWIATTN_CUDA
// `factor`, `apply` (float64) and `updates` (int64, already advanced) are device scalars. `stream`
// is a cudaStream_t. Throws std::runtime_error (base/cuda_check.h) when the launch fails.
void adamw_on_gpu(const AdamWSpan& span, const AdamWConstants& constants, const double* factor,
                  const double* apply, const int64_t* updates, void* stream);
#endif

}  // namespace swiattn
