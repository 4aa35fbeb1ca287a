// How much of a kernel a GPU runs at once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "base/cuda_check.h"

namespace swiattn::gpu {

inline int64_t multiprocessors() {
  int device = 0, count = 0;
  SWIATTN_CHECK_CUDA(cudaGetDevice(&device));
  SWIATTN_CHECK_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// How many blocks of a kernel without dynamic shared memory run at once: as many as should walk.
template <class Kernel>
int64_t blocks_at_once(Kernel kernel, int threads) {
  int blocks = 0;
  SWIATTN_CHECK_CUDA(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0));
  return multiprocessors() * blocks;
}

}  // namespace swiattn::gpu
