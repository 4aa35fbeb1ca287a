// RMSNorm of heads and rotary positions, in place on rows of the packed projection. Bound by
// memory: 6 bytes an element forward (the row, its copy, the result) and as many backward
// (gradient, copy, result), and each token's angles. Rows are short, so that a warp takes several;
// they are (token, head).
#include <algorithm>

#include "base/cuda_check.h"
#include "ops/column_sum.cuh"
#include "ops/gpu_kernels.h"
#include "ops/rotary.cuh"
#include "ops/row_threads.cuh"
#include "parallel/gpu_occupancy.cuh"

namespace swiattn::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kElements = 2 * kVector;  // of a thread: neighbouring pairs (x_i, x_{i + D/2})
static_assert(kMaxHeadNormWidth <= kWarp * kElements, "a row's sums stay within a warp");

// One half of the pairs, and the other.
using Halves = float[2][kVector];

// Where the pairs of this thread lie; in vectors, those of the second halves `half` further.
// threadIdx.x is the thread in its row, threadIdx.y the row in its block.
struct Place {
  bool here;           // threads behind the last row, or behind their row's end, have no pairs but
                       // take part in sums
  int64_t in_place;    // in the packed matrix
  int64_t contiguous;  // in a matrix of nothing but these rows
  int64_t half;
  int64_t angles;  // in the tables, in floats
};

__device__ Place place_of(const HeadNormArguments& a, int64_t row) {
  const int64_t token = row / a.heads;
  const int64_t head = row % a.heads;
  const int64_t vectors = a.head_dim / kVector;
  Place place;
  place.half = vectors / 2;
  place.here = row < a.tokens * a.heads && threadIdx.x < place.half;
  place.in_place = token * (a.token_stride / kVector) + head * vectors + threadIdx.x;
  place.contiguous = row * vectors + threadIdx.x;
  place.angles = (token * place.half + threadIdx.x) * kVector;
  return place;
}

// Over the threads of a row, on every one of them. All threads of the warp call it together.
__device__ float row_total(float value) {
  for (unsigned offset = blockDim.x / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, offset);
  }
  return value;
}

__device__ float inverse_rms(const HeadNormArguments& a, const Halves& x) {
  float squares = 0.0F;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) squares += x[h][i] * x[h][i];
  }
  return rsqrtf(row_total(squares) / static_cast<float>(a.head_dim) + a.eps);
}

// By the tables' angles times `direction`, 1 or -1.
__device__ void turn(const HeadNormArguments& a, const Place& place, float direction, Halves& x) {
  float cosine[kVector], sine[kVector];
  load_floats(a.cosine + place.angles, cosine);
  load_floats(a.sine + place.angles, sine);
  turn_pairs(cosine, sine, direction, x[0], x[1]);
}

__global__ void __launch_bounds__(kThreads) forward(HeadNormArguments a, Bf16* x, Bf16* before) {
  const Place place = place_of(a, static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y);
  Halves values = {};
  if (place.here) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Pack pack = static_cast<const Pack*>(x)[place.in_place + h * place.half];
      static_cast<Pack*>(before)[place.contiguous + h * place.half] = pack;
      unpack(pack, values[h]);
    }
  }
  const float inverse = inverse_rms(a, values);
  if (!place.here) return;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float weight[kVector];
    load(a.weight, threadIdx.x + h * place.half, weight);
    // Rounded as between two operations.
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      values[h][i] = round_to_bf16(weight[i] * round_to_bf16(values[h][i] * inverse));
    }
  }
  turn(a, place, 1.0F, values);
#pragma unroll
  for (int h = 0; h < 2; ++h) store(x, place.in_place + h * place.half, values[h]);
}

// The columns' sums of a block: of every thread first, then of the rows that its threads took.
__device__ void write_partial(const HeadNormArguments& a, const Halves& sum, float* partial) {
  __shared__ alignas(32) float of_row[kThreads * kElements];  // [blockDim.y, head_dim]
  const auto width = static_cast<int>(a.head_dim);
  const int column = static_cast<int>(threadIdx.x) * kVector;
  if (column < width / 2) {
    float* const row = of_row + threadIdx.y * width + column;
    store_floats(row, sum[0]);
    store_floats(row + width / 2, sum[1]);
  }
  __syncthreads();
  for (int c = threadIdx.y * blockDim.x + threadIdx.x; c < width; c += kThreads) {
    float total = 0.0F;
    for (int row = 0; row < static_cast<int>(blockDim.y); ++row) total += of_row[row * width + c];
    partial[blockIdx.x * a.head_dim + c] = total;
  }
}

// grad_x = (g w - u mean(g w u)) / rms with u = x / rms and g the gradient turned back. A block
// walks over its rows, its threads keeping their columns of the weight and their sums in registers.
__global__ void __launch_bounds__(kThreads, 3)
    backward(HeadNormArguments a, Bf16* grad, const Bf16* before, float* partial) {
  const int64_t rows = a.tokens * a.heads;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  Pack weight[2] = {};
  if (threadIdx.x < a.head_dim / kElements) {
    weight[0] = static_cast<const Pack*>(a.weight)[threadIdx.x];
    weight[1] = static_cast<const Pack*>(a.weight)[threadIdx.x + a.head_dim / kElements];
  }
  Halves sum = {};
  // All threads of a block go round equally often, since those of a warp sum together.
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.y; first < rows; first += step) {
    const Place place = place_of(a, first + threadIdx.y);
    Halves x = {}, g = {};
    if (place.here) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        load(before, place.contiguous + h * place.half, x[h]);
        load(grad, place.in_place + h * place.half, g[h]);
      }
      turn(a, place, -1.0F, g);
    }
    const float of_row = inverse_rms(a, x);
    // Without eps that of a row that is not there is infinite, and the sums would be no numbers.
    const float inverse = place.here ? of_row : 0.0F;
    float dot = 0.0F;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float w[kVector];
      unpack(weight[h], w);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        x[h][i] *= inverse;
        // The forward multiplied the weight by the rounded row.
        sum[h][i] += g[h][i] * round_to_bf16(x[h][i]);
        g[h][i] *= w[i];
        dot += g[h][i] * x[h][i];
      }
    }
    const float mean = row_total(dot) / static_cast<float>(a.head_dim);
    if (place.here) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) g[h][i] = (g[h][i] - x[h][i] * mean) * inverse;
        store(grad, place.in_place + h * place.half, g[h]);
      }
    }
  }
  if (partial != nullptr) write_partial(a, sum, partial);
}

// A power of two in a row, that shuffles may sum over, and as many rows as fill a block.
dim3 block_of(int64_t head_dim) {
  unsigned of_row = 1;
  while (of_row < head_dim / kElements) of_row *= 2;
  return {of_row, kThreads / of_row};
}

int64_t blocks_of(int64_t rows, int64_t head_dim) {
  const int64_t of_block = block_of(head_dim).y;
  return (rows + of_block - 1) / of_block;
}

}  // namespace

void head_norm_forward(const HeadNormArguments& a, Bf16* x, Bf16* before, void* stream) {
  const int64_t rows = a.tokens * a.heads;
  forward<<<static_cast<unsigned>(blocks_of(rows, a.head_dim)), block_of(a.head_dim), 0,
            as_stream(stream)>>>(a, x, before);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

int64_t head_norm_backward_blocks(int64_t tokens, int64_t heads, int64_t head_dim) {
  return std::min(blocks_at_once(backward, kThreads), blocks_of(tokens * heads, head_dim));
}

void head_norm_backward(const HeadNormArguments& a, Bf16* grad, const Bf16* before,
                        const ColumnSum& grad_weight, int64_t blocks, void* stream) {
  backward<<<static_cast<unsigned>(blocks), block_of(a.head_dim), 0, as_stream(stream)>>>(
      a, grad, before, grad_weight.partial);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
  add_partial_sums(grad_weight, blocks, a.head_dim, as_stream(stream));
}

}  // namespace swiattn::gpu
