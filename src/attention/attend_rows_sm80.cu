// Attention of listed rows to their keys on Ampere and later: mma.sync products, operands by
// asynchronous copies.
//
// A block takes 128 listed rows of one query head and visits their keys in tiles. Each of its four
// warps has 32 of the rows: with fewer, reading keys and values from shared memory would take
// longer than multiplying them. The softmax is the running one, and goes on from an earlier result:
// its maximum begins with that log-sum-exp, its sum with 1, its output with that output. Where the
// difference is asked for, they begin with nothing and are of the listed keys alone; the earlier
// result joins them at the end.
//
//   S  = Q K^T            [32 rows, kKeys]   Q, K in shared memory
//   P  = exp(S - max)                        in registers
//   O += P V              [32 rows, D]       P from registers, V in shared memory
//
// 80 KiB of shared memory at D 128, 64 at D 64; two blocks fit on a multiprocessor of an A100.
#include <cuda_runtime.h>

#include "attention/branch_shares.cuh"
#include "attention/head_width.h"
#include "attention/listed_tile.cuh"
#include "attention/softmax_rows.cuh"
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

// A row's running softmax, in base 2: a thread has rows sum_row(m, 2 h).
struct RowState {
  float largest = -INFINITY;  // logit so far
  float sum = 0.0F;           // of this thread's weights
};

// What one warp computes.
template <int kHeadDim, bool kDifference>
class Worker {
 public:
  static constexpr int kKeys = Shared<kHeadDim>::kKeys;

  // Goes on from what the rows have attended to.
  __device__ Worker(const Shared<kHeadDim>& shared, const AttendRowsArguments& a)
      : shared_(shared),
        a_(a),
        scale_(a.keys.scale * kLog2E),
        row_(static_cast<int>(threadIdx.x / 32) * kRowsPerWarp),
        query_(Matrix<kHeadDim>::block(Matrix<kHeadDim>::by_columns(shared_address(shared.query)),
                                       row_, 0)) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t token = token_of(m, h);
        if (kDifference || token < 0) continue;
        state_[m][h].largest = *logsumexp(token) * kLog2E;
        state_[m][h].sum = threadIdx.x % 4 == 0 ? 1.0F : 0.0F;  // once among a row's threads
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          const float2 before = __bfloat1622float2(
              *reinterpret_cast<const __nv_bfloat162*>(row_of(a_.out, token) + sum_column(n, 0)));
          out_[m][n][2 * h] = before.x;
          out_[m][n][2 * h + 1] = before.y;
        }
      }
    }
  }

  __device__ void visit_keys(uint32_t keys, int32_t key) {
    float scores[kM][kKeys / 8][4] = {};
    multiply_nt<kHeadDim>(scores, query_, Matrix<kHeadDim>::by_rows(keys));
    if (!shared_.tile.all_see(key, kKeys)) {
      mask(scores, a_.rows.list, shared_.tile, row_, key);
    }
    raise_maxima(scores);
    weigh(scores);
    pack_operand(scores, weights_);
  }

  __device__ void visit_values(uint32_t values) {
    multiply_nn<kHeadDim>(out_, weights_, Matrix<kHeadDim>::by_columns(values));
  }

  __device__ void write() const {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if constexpr (kDifference) {
          write_difference(m, h);
        } else {
          write_row(m, h);
        }
      }
    }
  }

 private:
  using Scores = float[kM][kKeys / 8][4];

  __device__ void write_row(int m, int h) const {
    const float sum = row_sum(state_[m][h].sum);
    const int64_t token = token_of(m, h);
    if (token < 0) return;
    if (threadIdx.x % 4 == 0) {
      *logsumexp(token) = (state_[m][h].largest + log2f(sum)) * kLn2;
    }
    put_row(row_of(a_.out, token), out_[m], h, 1.0F / sum, false);
  }

  __device__ void write_difference(int m, int h) const {
    const RowState& state = state_[m][h];
    const float far_sum = row_sum(state.sum);
    const int64_t token = token_of(m, h);
    const bool listed = token >= 0;
    const bool routed = listed && a_.route[token];
    const float near_max = listed ? *logsumexp(token) * kLog2E : 0.0F;
    const BranchShares shares(near_max, state.largest, far_sum);
    const float squares =
        row_sum(listed ? put_difference(token, out_[m], h, shares, routed) : 0.0F);
    if (!listed || threadIdx.x % 4 != 0) return;
    a_.squares[statistic(token)] = squares;
    if (routed) *logsumexp(token) = kLn2 * shares.logsumexp;
  }

  // This thread's part of a row's difference and, if routed, of its output. Returns its part of the
  // sum of squares.
  __device__ float put_difference(int64_t token, const float (&far)[kHeadDim / 8][4], int h,
                                  const BranchShares& shares, bool routed) const {
    const auto part_of = [&](Bf16* rows) {
      return reinterpret_cast<__nv_bfloat162*>(row_of(rows, token) + sum_column(0, 0));
    };
    __nv_bfloat162* const result = part_of(a_.out);
    __nv_bfloat162* const difference = part_of(a_.difference);
    return shares.put_difference<kHeadDim>(&far[0][2 * h], difference, result, routed);
  }

  // -1: none.
  __device__ int64_t token_of(int m, int h) const {
    const int index = row_ + sum_row(m, 2 * h);
    return index < shared_.tile.rows ? a_.rows.list.row[shared_.tile.row + index] : -1;
  }
  __device__ __nv_bfloat16* row_of(Bf16* rows, int64_t token) const {
    return static_cast<__nv_bfloat16*>(rows) +
           (token * a_.keys.heads + shared_.tile.head) * kHeadDim;
  }
  // Of a row, in an array [Hq, T].
  __device__ int64_t statistic(int64_t token) const {
    return shared_.tile.head * a_.keys.tokens + token;
  }
  __device__ float* logsumexp(int64_t token) const { return a_.logsumexp + statistic(token); }

  // What was summed under a smaller maximum is scaled down. Few tiles but the first ones have a new
  // maximum.
  __device__ void raise_maxima(const Scores& scores) {
    float raised[kM][2];
    bool higher = false;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          largest = fmaxf(largest, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
        }
        raised[m][h] = fmaxf(state_[m][h].largest, row_max(largest) * scale_);
        higher |= raised[m][h] > state_[m][h].largest;
      }
    }
    if (!__any_sync(0xffffffffU, higher)) return;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float factor = exp2_approximate(state_[m][h].largest - finite(raised[m][h]));
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
        const float base = finite(state.largest);
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          scores[m][n][e] = exp2_approximate(scores[m][n][e] * scale_ - base);
          state.sum += scores[m][n][e];
        }
      }
    }
  }

  // A row that has seen no key yet has nothing to subtract.
  __device__ static float finite(float largest) { return largest == -INFINITY ? 0.0F : largest; }

  const Shared<kHeadDim>& shared_;
  const AttendRowsArguments& a_;
  const float scale_;  // to logits in base 2
  const int row_;      // the warp's first in the tile
  const uint32_t query_;
  RowState state_[kM][2];
  uint32_t weights_[kKeys / 16][kM][4];
  float out_[kM][kHeadDim / 8][4] = {};
};

template <int kHeadDim, bool kDifference>
__global__ void __launch_bounds__(kThreads, 2)
    attend_rows(const __grid_constant__ AttendRowsArguments a) {
  using Memory = Shared<kHeadDim>;
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<Memory*>(memory);

  const KeyValues& k = a.keys;
  if (!take_tile<kRows>(a.rows.list, k, shared.tile)) return;
  copy_tile<kHeadDim, kRows, kThreads>(shared.query, a.rows.query, a.rows.query_stride,
                                       shared.tile);
  typename Memory::Stream stream(shared.tiles, k, shared.tile, k.key, k.value);
  Worker<kHeadDim, kDifference> worker(shared, a);
  for (int32_t key = shared.tile.begin; key < shared.tile.end; key += Memory::kKeys) {
    worker.visit_keys(stream.next(k.key, key + Memory::kKeys), key);
    worker.visit_values(stream.next(k.value, key + Memory::kKeys));
  }
  worker.write();
}

template <int kHeadDim>
void launch(const AttendRowsArguments& a, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  const auto kernel =
      a.difference != nullptr ? attend_rows<kHeadDim, true> : attend_rows<kHeadDim, false>;
  SWIATTN_CHECK_CUDA(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t blocks = (a.keys.tokens + kRows - 1) / kRows * a.keys.heads;
  kernel<<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void attend_rows_sm80(const AttendRowsArguments& a, void* stream) {
  if (a.keys.tokens == 0) return;
  with_head_dim(a.keys.head_dim,
                [&](auto head_dim) { launch<decltype(head_dim)::value>(a, as_stream(stream)); });
}

}  // namespace swiattn::gpu
