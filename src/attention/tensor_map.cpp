#include "attention/tensor_map.h"

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// From the driver by name, so that nothing links to it: a machine without a GPU has none.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  SWIATTN_CHECK_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                      cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess) {
    throw std::runtime_error("The CUDA driver has no cuTensorMapEncodeTiled; it is too old.");
  }
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap head_box_map(const void* x, int64_t rows, int64_t heads, int64_t head_dim,
                         int64_t row_stride, uint32_t box_rows) {
  static const Encode encode = find_encode();
  constexpr uint32_t kColumns = 64;
  constexpr uint64_t kBytes = 2;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(head_dim), static_cast<cuuint64_t>(heads),
                              static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(head_dim) * kBytes,
                                static_cast<cuuint64_t>(row_stride) * kBytes};
  const cuuint32_t box[] = {kColumns, 1, box_rows};
  const cuuint32_t steps[] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(x), sizes, strides, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw std::runtime_error("cuTensorMapEncodeTiled refused a matrix: CUDA error " +
                             std::to_string(static_cast<int>(status)) + ".");
  }
  return map;
}

}  // namespace swiattn::gpu
