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
// 80 KiB of shared memory at D 128, 64 at D 64; two blocks fit on a multiprocessor of an A100.
#include <cuda_runtime.h>

#include "attention/head_width.h"
#include "attention/listed_tile.cuh"
#include "attention/softmax_rows.cuh"
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

  __device__ Worker(Shared<kHeadDim>& shared, const QueryGradientArguments& a)
      : shared_(shared), a_(a), scale_(a.keys.scale * kLog2E) {
    const int64_t first = shared.tile.head * list_capacity(a.keys.tokens) + shared.tile.row;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t row = first + row_ + sum_row(m, 2 * h);
        lse_[m][h] = a.rows.lse[row];
        delta_[m][h] = a.rows.delta[row];
      }
    }
  }

  __device__ void visit_values(uint32_t values) {
    clear(grad_weights_);
    multiply_nt<kHeadDim>(grad_weights_, own_rows(shared_.rows.grad_out), own_keys(values));
  }

  __device__ void visit_keys(uint32_t keys, int32_t key) {
    Scores scores = {};
    multiply_nt<kHeadDim>(scores, own_rows(shared_.rows.query), own_keys(keys));
    if (!shared_.tile.all_see(key, 2 * kHalf)) {
      mask(scores, a_.rows.list, shared_.tile, row_, key + key_);
    }
    score_gradients(scores);
    uint32_t packed[kHalf / 16][kM][4];
    pack_operand(scores, packed);
    const uint32_t right = Operand::block(Operand::by_columns(keys), key_, 0);
    multiply_nn<kHeadDim>(grad_query_, packed, right);
  }

  // The sums over both halves of the keys become the gradient. Barriers of the block.
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
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kHalf / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[m][n][e] = 0.0F;
      }
    }
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
          const float weight = exp2_approximate(scores[m][n][e] * scale_ - lse_[m][e / 2]);
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
    const ListTile& tile = shared_.tile;
    auto* const head = static_cast<__nv_bfloat16*>(a_.grad_query) + tile.head * kHeadDim;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int index = row_ + sum_row(m, 2 * h);
        if (index >= tile.rows) continue;
        const int64_t token = a_.rows.list.row[tile.row + index];
        put_row(head + token * a_.grad_stride, grad_query_[m], h, a_.keys.scale, a_.add);
      }
    }
  }

  Shared<kHeadDim>& shared_;
  const QueryGradientArguments& a_;
  const float scale_;  // to logits in base 2
  // The warp's first row, and first key in a tile of keys.
  const int row_ = static_cast<int>(threadIdx.x / 32 % kRowGroups) * kRowsPerWarp;
  const int key_ = static_cast<int>(threadIdx.x / 32 / kRowGroups) * kHalf;
  float lse_[kM][2];  // base 2
  float delta_[kM][2];
  Scores grad_weights_;
  float grad_query_[kM][kHeadDim / 8][4] = {};
};

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2)
    query_gradient(const __grid_constant__ QueryGradientArguments a) {
  using Memory = Shared<kHeadDim>;
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<Memory*>(memory);

  const KeyValues& k = a.keys;
  if (!take_tile<kRows>(a.rows.list, k, shared.tile)) return;
  copy_tile<kHeadDim, kRows, kThreads>(shared.rows.query, a.rows.query, a.rows.query_stride,
                                       shared.tile);
  copy_tile<kHeadDim, kRows, kThreads>(shared.rows.grad_out, a.rows.grad_out, k.heads * kHeadDim,
                                       shared.tile);
  typename Memory::Stream stream(shared.tiles, k, shared.tile, k.value, k.key);
  Worker<kHeadDim> worker(shared, a);
  for (int32_t key = shared.tile.begin; key < shared.tile.end; key += Memory::kKeys) {
    worker.visit_values(stream.next(k.value, key + Memory::kKeys));
    worker.visit_keys(stream.next(k.key, key + Memory::kKeys), key);
  }
  worker.finish();
}

template <int kHeadDim>
void launch(const QueryGradientArguments& a, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  SWIATTN_CHECK_CUDA(cudaFuncSetAttribute(query_gradient<kHeadDim>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t blocks = list_capacity(a.keys.tokens) / kRows * a.keys.heads;
  query_gradient<kHeadDim><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void query_gradient_sm80(const QueryGradientArguments& a, void* stream) {
  if (a.keys.tokens == 0) return;
  with_head_dim(a.keys.head_dim,
                [&](auto head_dim) { launch<decltype(head_dim)::value>(a, as_stream(stream)); });
}

}  // namespace swiattn::gpu
