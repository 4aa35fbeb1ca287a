// The gradient of the embedding's table: of every id the sum over its tokens, in float32. The
// tokens come sorted by id, in parts of kEmbeddingPart. A block adds the tokens that one id has in
// a part, in their order, and a second pass the sums of an id that goes on over several parts, as
// frequent ones do: the same bits in every run, and no atomics. Bound by memory: 2 bytes of each
// gradient and 8 of the rows that tokens have, and little for the sums of parts.
#include <algorithm>

#include "base/cuda_check.h"
#include "ops/gpu_kernels.h"
#include "ops/row_threads.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kRowsAtOnce = 8;  // in flight

// How many of the next `most` tokens, `step` apart, have this id. For a whole block.
__device__ int64_t run_length(const int64_t* ids, int64_t id, int64_t most, int64_t step) {
  int64_t length = 0;
  for (int64_t begin = 0; begin == length && begin < most; begin += blockDim.x) {
    const int64_t i = begin + threadIdx.x;
    length += __syncthreads_count(i < most && ids[i * step] == id);
  }
  return length;
}

// Adds `count` rows in their order; load(i, row) gives the i-th one.
template <class Load>
__device__ void add_rows(int64_t count, const Load& load, float (&sum)[kVector]) {
  for (int64_t begin = 0; begin < count; begin += kRowsAtOnce) {
    float rows[kRowsAtOnce][kVector] = {};
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (begin + i < count) load(begin + i, rows[i]);
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
#pragma unroll
      for (int c = 0; c < kVector; ++c) sum[c] += rows[i][c];
    }
  }
}

__device__ void add_to_table(float* table, const float (&sum)[kVector]) {
  float total[kVector];
  load_floats(table, total);
#pragma unroll
  for (int c = 0; c < kVector; ++c) total[c] += sum[c];
  store_floats(table, total);
}

// Where a part keeps what it has of the id that goes on from the part before, and of the one that
// begins in it and goes on.
__device__ float* partial_sum(const EmbeddingBackwardArguments& a, int64_t part, bool goes_on) {
  return a.partial + (2 * part + (goes_on ? 0 : 1)) * a.width;
}

// The block of the first token of an id in a part sums all of them there.
__global__ void __launch_bounds__(kMaxThreads) sum_tokens(EmbeddingBackwardArguments a) {
  const int64_t first = blockIdx.x, id = a.ids[first];
  const bool goes_on = first > 0 && a.ids[first - 1] == id;
  if (goes_on && first % kEmbeddingPart != 0) return;
  const int64_t part = first / kEmbeddingPart;
  const int64_t end = min(a.tokens, (part + 1) * kEmbeddingPart);
  const int64_t count = run_length(a.ids + first, id, end - first, 1);
  const bool whole = !goes_on && (end == a.tokens || a.ids[end] != id);
  const int64_t vectors = a.width / kVector;
  for (int64_t column = threadIdx.x; column < vectors; column += blockDim.x) {
    float sum[kVector] = {};
    const auto load_token = [&](int64_t i, float(&row)[kVector]) {
      load(a.grad, a.order[first + i] * vectors + column, row);
    };
    add_rows(count, load_token, sum);
    if (whole) {
      add_to_table(a.table + (id * vectors + column) * kVector, sum);
    } else {
      store_floats(partial_sum(a, part, goes_on) + column * kVector, sum);
    }
  }
}

// The block of the part where an id begins that goes on in the next one sums all its parts.
__global__ void __launch_bounds__(kMaxThreads) sum_parts(EmbeddingBackwardArguments a) {
  const int64_t part = blockIdx.x, begin = part * kEmbeddingPart, end = begin + kEmbeddingPart;
  if (end >= a.tokens) return;
  const int64_t id = a.ids[end - 1];
  if (a.ids[end] != id || (begin > 0 && a.ids[begin - 1] == id)) return;
  const int64_t after = embedding_parts(a.tokens) - part - 1;
  const int64_t count = 1 + run_length(a.ids + end, id, after, kEmbeddingPart);
  const int64_t vectors = a.width / kVector;
  for (int64_t column = threadIdx.x; column < vectors; column += blockDim.x) {
    float sum[kVector] = {};
    const auto load_part = [&](int64_t i, float(&row)[kVector]) {
      load_floats(partial_sum(a, part + i, i > 0) + column * kVector, row);
    };
    add_rows(count, load_part, sum);
    add_to_table(a.table + (id * vectors + column) * kVector, sum);
  }
}

}  // namespace

void embedding_backward(const EmbeddingBackwardArguments& a, void* stream) {
  const int64_t vectors = a.width / kVector;
  const auto threads =
      static_cast<unsigned>(std::min<int64_t>((vectors + kWarp - 1) / kWarp * kWarp, kMaxThreads));
  sum_tokens<<<static_cast<unsigned>(a.tokens), threads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
  sum_parts<<<static_cast<unsigned>(embedding_parts(a.tokens)), threads, 0, as_stream(stream)>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace swiattn::gpu
