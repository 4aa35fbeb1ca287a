// The stream that kernels of our own are launched on.
#pragma once

#include <c10/cuda/CUDAStream.h>

namespace swiattn {

// PyTorch's current stream on the current device: a cudaStream_t, as launches take it.
inline void* current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

}  // namespace swiattn
