// The query gradient of listed rows on Ampere and later, without atomics: the order of all sums is
// fixed.
//
// A block takes 64 listed rows of one query head and visits their keys in tiles. Each of its four
// warps has 32 of the rows and half of every tile's keys: with fewer rows, reading operands from
// shared memory would take longer than multiplying them. The halves are added at the end.
//
//   dP  = dO V^T                     [32 rows, kHalf keys]   operands in shared memory
//   S   = Q K^T                      [32 rows, kHalf keys]
//   dS  = exp(S - lse) (dP - delta)                          in registers
//   dQ += dS K                       [32 rows, D]            dS from registers
//
// 81 KiB of shared memory at D 128, 65 at D 64; two blocks fit on a multiprocessor of an A100.
#include <cuda_runtime.h>

#include <stdexcept>

#include "attention/listed_tile.cuh"
#include "attention/tile_stream.cuh"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

using namespace ampere;

constexpr int kRows = kListTile;
constexpr int kThreads = 128;
constexpr int kRowsPerWarp = 32;
constexpr int kRowGroups = kRows / kRowsPerWarp;
constexpr int kM = kRowsPerWarp / 16;  // fragments of a warp's rows

template <int kHeadDim>
struct Shared {
  static constexpr int kKeys = 8192 / kHeadDim;  // of a tile
  using Stream = TileStream<kHeadDim, kKeys, kThreads>;
  struct Rows {
    __nv_bfloat16 query[kRows * kHeadDim];
    __nv_bfloat16 grad_out[kRows * kHeadDim];
  };

  union {
    Rows rows;
    float4 sum[kRowGroups][kM][kHeadDim / 8][32];  // of the second half of the keys, at last
  };
  typename Stream::Buffers tiles;
  ListTile tile;
};

// What one warp computes.
template <int kHeadDim>
class Worker {
 public:
  static constexpr int kHalf = Shared<kHeadDim>::kKeys / 2;

  __device__ Worker(Shared<kHeadDim>& shared, const ListedQueryGradientArguments& a)
      : shared_(shared), a_(a), scale_(a.operands.scale * kLog2E) {
    const int64_t first = shared.tile.head * list_capacity(a.operands.tokens) + shared.tile.row;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t row = first + row_ + sum_row(m, 2 * h);
        lse_[m][h] = a.gradients.compact_lse[row];
        delta_[m][h] = a.gradients.compact_delta[row];
      }
    }
  }

  __device__ void visit_values(uint32_t values) {
    clear(grad_weights_);
    multiply_rows<kHeadDim>(grad_weights_, own_rows(shared_.rows.grad_out), own_keys(values));
  }

  __device__ void visit_keys(uint32_t keys, int32_t key) {
    Scores scores;
    clear(scores);
    multiply_rows<kHeadDim>(scores, own_rows(shared_.rows.query), own_keys(keys));
    if (!shared_.tile.all_see(key, 2 * kHalf)) {
      mask(scores, a_.operands.list, shared_.tile, row_, key + key_);
    }
    score_gradients(scores);
    uint32_t packed[kM][kHalf / 16][4];
    pack_operand(scores, packed);
    const uint32_t right = Operand::block(Operand::by_columns(keys), key_, 0);
    multiply_packed<kHeadDim>(grad_query_, packed, right);
  }

  // Adds the sums over both halves of the keys to the gradient. Barriers of the block.
  __device__ void finish() {
    __syncthreads();
    float4* const sum = &shared_.sum[row_ / kRowsPerWarp][0][0][threadIdx.x % 32];
    if (key_ > 0) lay_down(sum);
    __syncthreads();
    if (key_ > 0) return;
    pick_up(sum);
    write();
  }

 private:
  using Operand = Matrix<kHeadDim>;
  using Scores = float[kM][kHalf / 8][4];

  __device__ static void clear(Scores& scores) {
#pragma unroll
    for (int i = 0; i < kM * kHalf / 2; ++i)
      scores[i / (kHalf / 2)][i / 4 % (kHalf / 8)][i % 4] = 0;
  }

  __device__ uint32_t own_rows(const __nv_bfloat16* rows) const {
    return Operand::block(Operand::by_columns(shared_address(rows)), row_, 0);
  }
  __device__ uint32_t own_keys(uint32_t keys) const {
    return Operand::block(Operand::by_rows(keys), key_, 0);
  }

  // From logits to their gradients, but for the scale.
  __device__ void score_gradients(Scores& scores) const {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kHalf / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float weight = power_of_two(scores[m][n][e] * scale_ - lse_[m][e / 2]);
          scores[m][n][e] = weight * (grad_weights_[m][n][e] - delta_[m][e / 2]);
        }
      }
    }
  }

  __device__ void lay_down(float4* to) const {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        const float(&part)[4] = grad_query_[m][n];
        to[(m * kHeadDim / 8 + n) * 32] = make_float4(part[0], part[1], part[2], part[3]);
      }
    }
  }

  __device__ void pick_up(const float4* from) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        const float4 part = from[(m * kHeadDim / 8 + n) * 32];
        grad_query_[m][n][0] += part.x, grad_query_[m][n][1] += part.y;
        grad_query_[m][n][2] += part.z, grad_query_[m][n][3] += part.w;
      }
    }
  }

  __device__ void write() const {
    const float scale = a_.operands.scale;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int index = row_ + sum_row(m, 2 * h);
        if (index >= shared_.tile.rows) continue;
        const int64_t row = a_.operands.list.row[shared_.tile.row + index];
        auto* const to = reinterpret_cast<__nv_bfloat162*>(
            static_cast<__nv_bfloat16*>(a_.grad_query) + row * a_.grad_stride +
            shared_.tile.head * kHeadDim + sum_column(0, 0));
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          const float2 before = __bfloat1622float2(to[4 * n]);
          to[4 * n] = __floats2bfloat162_rn(before.x + grad_query_[m][n][2 * h] * scale,
                                            before.y + grad_query_[m][n][2 * h + 1] * scale);
        }
      }
    }
  }

  Shared<kHeadDim>& shared_;
  const ListedQueryGradientArguments& a_;
  const float scale_;  // to logits in base 2
  const int row_ =
      static_cast<int>(threadIdx.x / 32 % kRowGroups) * kRowsPerWarp;        // the warp's first
  const int key_ = static_cast<int>(threadIdx.x / 32 / kRowGroups) * kHalf;  // and in a tile
  float lse_[kM][2];                                                         // base 2
  float delta_[kM][2];
  Scores grad_weights_;
  float grad_query_[kM][kHeadDim / 8][4] = {};
};

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2)
    query_gradient(const __grid_constant__ ListedQueryGradientArguments a) {
  using Memory = Shared<kHeadDim>;
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<Memory*>(memory);

  const ListedOperands& o = a.operands;
  if (!take_tile<kRows>(o, shared.tile)) return;
  copy_tile<kHeadDim, kRows, kThreads>(shared.rows.query, o.compact_query, o, shared.tile);
  copy_tile<kHeadDim, kRows, kThreads>(shared.rows.grad_out, a.gradients.compact_grad_out, o,
                                       shared.tile);
  typename Memory::Stream stream(shared.tiles, o, shared.tile, o.value, o.key);
  Worker<kHeadDim> worker(shared, a);
  for (int32_t key = shared.tile.begin; key < shared.tile.end; key += Memory::kKeys) {
    worker.visit_values(stream.next(o.value, key + Memory::kKeys));
    worker.visit_keys(stream.next(o.key, key + Memory::kKeys), key);
  }
  worker.finish();
}

template <int kHeadDim>
void launch(const ListedQueryGradientArguments& a, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  SWIATTN_CHECK_CUDA(cudaFuncSetAttribute(query_gradient<kHeadDim>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t blocks = list_capacity(a.operands.tokens) / kRows * a.operands.heads;
  query_gradient<kHeadDim><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void listed_query_gradient_sm80(const ListedQueryGradientArguments& a, void* stream) {
  if (a.operands.tokens == 0) return;
  if (a.operands.head_dim == 64) return launch<64>(a, as_stream(stream));
  if (a.operands.head_dim == 128) return launch<128>(a, as_stream(stream));
  throw std::runtime_error("The listed query gradient has head widths 64 and 128.");
}

}  // namespace swiattn::gpu
