// Attention of listed rows on Ampere and later: mma.sync products, operands by asynchronous copies.
//
// A block takes 128 listed rows of one query head and visits their keys in tiles, with the running
// maximum and sum of the online softmax. Each of its four warps has 32 of the rows: with fewer,
// reading keys and values from shared memory would take longer than multiplying them.
//
//   S  = Q K^T            [32 rows, kKeys]   Q, K in shared memory
//   P  = exp(S - max)                        in registers
//   O += P V              [32 rows, D]       P from registers, V in shared memory
//
// 80 KiB of shared memory at D 128, 64 at D 64; two blocks fit on a multiprocessor of an A100.
#include <cuda_runtime.h>

#include <stdexcept>

#include "attention/listed_tile.cuh"
#include "attention/tile_stream.cuh"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

using namespace ampere;

constexpr int kRows = 128;
constexpr int kThreads = 128;
constexpr int kRowsPerWarp = 32;
constexpr int kM = kRowsPerWarp / 16;  // fragments of a warp's rows

template <int kHeadDim>
struct Shared {
  static constexpr int kKeys = 8192 / kHeadDim;  // of a tile
  using Stream = TileStream<kHeadDim, kKeys, kThreads>;

  __nv_bfloat16 query[kRows * kHeadDim];
  typename Stream::Buffers tiles;
  ListTile tile;
};

// A row's running softmax: a thread has rows sum_row(m, 2 h).
struct RowState {
  float largest = -INFINITY;  // logit so far, before scaling
  float sum = 0.0F;           // of this thread's weights
};

__device__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffU, value, 2));
}

__device__ float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffU, value, 1);
  return value + __shfl_xor_sync(0xffffffffU, value, 2);
}

// What one warp computes.
template <int kHeadDim>
class Worker {
 public:
  static constexpr int kKeys = Shared<kHeadDim>::kKeys;

  __device__ Worker(const Shared<kHeadDim>& shared, const ListedForwardArguments& a)
      : shared_(shared),
        a_(a),
        scale_(a.operands.scale * kLog2E),
        row_(static_cast<int>(threadIdx.x / 32) * kRowsPerWarp),
        query_(Matrix<kHeadDim>::block(Matrix<kHeadDim>::by_columns(shared_address(shared.query)),
                                       row_, 0)) {}

  __device__ void visit_keys(uint32_t keys, int32_t key) {
    float scores[kM][kKeys / 8][4] = {};
    multiply_rows<kHeadDim>(scores, query_, Matrix<kHeadDim>::by_rows(keys));
    if (!shared_.tile.all_see(key, kKeys)) {
      mask(scores, a_.operands.list, shared_.tile, row_, key);
    }
    raise_maxima(scores);
    weigh(scores);
    pack_operand(scores, weights_);
  }

  __device__ void visit_values(uint32_t values) {
    multiply_packed<kHeadDim>(out_, weights_, Matrix<kHeadDim>::by_columns(values));
  }

  // Rows of the list and the padding that belongs to it. Without a key: 0, and -inf as the
  // log-sum-exp.
  __device__ void write() const {
    const int head = shared_.tile.head;
    const ListedOperands& o = a_.operands;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int index = row_ + sum_row(m, 2 * h);
        const float sum = quad_sum(state_[m][h].sum);
        if (index >= list_capacity(shared_.tile.rows)) continue;
        const int64_t row = shared_.tile.row + index;
        if (threadIdx.x % 4 == 0) {
          a_.compact_logsumexp[head * list_capacity(o.tokens) + row] =
              (state_[m][h].largest * scale_ + log2f(sum)) / kLog2E;
        }
        auto* const to = reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(a_.compact_out) +
                                                     (row * o.heads + head) * kHeadDim);
        const float inverse = sum > 0.0F ? 1.0F / sum : 0.0F;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          to[sum_column(n, 0) / 2] =
              pack_pair(out_[m][n][2 * h] * inverse, out_[m][n][2 * h + 1] * inverse);
        }
      }
    }
  }

 private:
  using Scores = float[kM][kKeys / 8][4];

  // What was summed under a smaller maximum is scaled down. Few tiles but the first ones have a new
  // maximum.
  __device__ void raise_maxima(const Scores& scores) {
    float raised[kM][2];
    bool higher = false;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float largest = state_[m][h].largest;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          largest = fmaxf(largest, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
        }
        raised[m][h] = quad_max(largest);
        higher |= raised[m][h] > state_[m][h].largest;
      }
    }
    if (!__any_sync(0xffffffffU, higher)) return;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float factor = power_of_two((state_[m][h].largest - finite(raised[m][h])) * scale_);
        state_[m][h].largest = raised[m][h];
        state_[m][h].sum *= factor;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          out_[m][n][2 * h] *= factor;
          out_[m][n][2 * h + 1] *= factor;
        }
      }
    }
  }

  __device__ void weigh(Scores& scores) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        RowState& state = state_[m][e / 2];
        const float base = finite(state.largest) * scale_;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          scores[m][n][e] = power_of_two(scores[m][n][e] * scale_ - base);
          state.sum += scores[m][n][e];
        }
      }
    }
  }

  // A row that has seen no key yet has nothing to subtract.
  __device__ static float finite(float largest) { return largest == -INFINITY ? 0.0F : largest; }

  const Shared<kHeadDim>& shared_;
  const ListedForwardArguments& a_;
  const float scale_;  // to logits in base 2
  const int row_;      // the warp's first in the tile
  const uint32_t query_;
  RowState state_[kM][2];
  uint32_t weights_[kM][kKeys / 16][4];
  float out_[kM][kHeadDim / 8][4] = {};
};

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2)
    forward(const __grid_constant__ ListedForwardArguments a) {
  using Memory = Shared<kHeadDim>;
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<Memory*>(memory);

  const ListedOperands& o = a.operands;
  if (!take_tile<kRows>(o, shared.tile)) return;
  copy_tile<kHeadDim, kRows, kThreads>(shared.query, o.compact_query, o, shared.tile);
  typename Memory::Stream stream(shared.tiles, o, shared.tile, o.key, o.value);
  Worker<kHeadDim> worker(shared, a);
  for (int32_t key = shared.tile.begin; key < shared.tile.end; key += Memory::kKeys) {
    worker.visit_keys(stream.next(o.key, key + Memory::kKeys), key);
    worker.visit_values(stream.next(o.value, key + Memory::kKeys));
  }
  worker.write();
}

template <int kHeadDim>
void launch(const ListedForwardArguments& a, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  SWIATTN_CHECK_CUDA(
      cudaFuncSetAttribute(forward<kHeadDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t blocks = (a.operands.tokens + kRows - 1) / kRows * a.operands.heads;
  forward<kHeadDim><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void listed_forward_sm80(const ListedForwardArguments& a, void* stream) {
  if (a.operands.tokens == 0) return;
  if (a.operands.head_dim == 64) return launch<64>(a, as_stream(stream));
  if (a.operands.head_dim == 128) return launch<128>(a, as_stream(stream));
  throw std::runtime_error("The listed forward has head widths 64 and 128.");
}

}  // namespace swiattn::gpu
