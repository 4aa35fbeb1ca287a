// The gradient of the embedding's table: of every id the sum over its tokens, in float32. The
// tokens come sorted by id, so that one block owns a row of the table and adds its tokens in their
// order: the same bits in every run, and no atomics. Bound by memory: 2 bytes of each gradient and
// 8 of the rows that tokens have.
#include <algorithm>

#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"
#include "ops/row_threads.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kRowsAtOnce = 8;  // in flight: frequent tokens have thousands of rows

// The block of the first token of an id sums all of them; those of the others have nothing to do.
__global__ void __launch_bounds__(kMaxThreads)
    sum_tokens(const Bf16* grad, const int64_t* ids, const int64_t* order, float* table,
               int64_t tokens, int64_t vectors) {
  const int64_t first = blockIdx.x;
  const int64_t id = ids[first];
  if (first > 0 && ids[first - 1] == id) return;
  for (int64_t column = threadIdx.x; column < vectors; column += blockDim.x) {
    float sum[kVector] = {};
    bool more = true;
    for (int64_t begin = first; more; begin += kRowsAtOnce) {
      Pack rows[kRowsAtOnce];
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) {
        more = begin + i < tokens && ids[begin + i] == id;  // of the last one, as ids are sorted
        rows[i] = {};
        if (more) rows[i] = static_cast<const Pack*>(grad)[order[begin + i] * vectors + column];
      }
#pragma unroll
      for (int i = 0; i < kRowsAtOnce; ++i) {
        float row[kVector];
        unpack(rows[i], row);
#pragma unroll
        for (int c = 0; c < kVector; ++c) sum[c] += row[c];
      }
    }
    float* const to = table + (id * vectors + column) * kVector;
    float total[kVector];
    load_floats(to, total);
#pragma unroll
    for (int c = 0; c < kVector; ++c) total[c] += sum[c];
    store_floats(to, total);
  }
}

}  // namespace

void embedding_backward(const Bf16* grad, const int64_t* ids, const int64_t* order, float* table,
                        int64_t tokens, int64_t width, void* stream) {
  const int64_t vectors = width / kVector;
  const auto threads =
      static_cast<unsigned>(std::min<int64_t>((vectors + kWarp - 1) / kWarp * kWarp, kMaxThreads));
  sum_tokens<<<static_cast<unsigned>(tokens), threads, 0, as_stream(stream)>>>(
      grad, ids, order, table, tokens, vectors);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
