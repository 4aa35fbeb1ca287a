// The check of CUDA runtime calls. Only for files that are built with CUDA.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace swiattn {

// Throws std::runtime_error naming the call and CUDA's reason. Kernels are compiled without fmt, so
// that this is no Error; programs report it as an internal error, which it is.
inline void check_cuda(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA failed: ") + cudaGetErrorString(status) + " (" + call +
                           " at " + file + ":" + std::to_string(line) + ").");
}

}  // namespace swiattn

#define SWIATTN_CHECK_CUDA(call) ::swiattn::check_cuda((call), #call, __FILE__, __LINE__)
