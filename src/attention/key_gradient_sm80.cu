// dK and dV from listed rows on Ampere and later: mma.sync products, operands by asynchronous
// copies.
//
// A block owns 64 keys of one KV head and walks over the list tiles (64 rows) of every query head
// that shares them, of one list and then of the other, so that dK and dV stay in registers to the
// end. Two warps work on the same 32 keys: one makes the weights and dV, the other their gradients
// and dK. With the keys along the rows of the products, half a list tile at a time,
//
//   first warp                          second warp
//   S^T = K Q^T                         dP^T = V dO^T            [32 keys, 32 rows]
//   P^T = exp(S^T - lse)  ──shared──▶   dS^T = P^T (dP^T - delta)
//   dV += P^T dO                        dK  += dS^T Q            [32 keys, D]
//
// K, V, P and dS are left operands in registers, so that a warp reads one byte of shared memory,
// the bandwidth of which limits these products, for every 16 multiplications: half of what it would
// if each warp had 16 keys and both chains. The price is that dS is formed from the rounded P.
//
// 74 KiB of shared memory at D 128, two blocks on a multiprocessor of an A100; 42 at D 64, three.
#include <cuda_runtime.h>

#include "attention/head_width.h"
#include "attention/key_gradient_rows.cuh"
#include "attention/listed_kernels.h"
#include "attention/softmax_rows.cuh"
#include "attention/warp_products.cuh"
#include "base/cuda_check.h"

namespace swiattn::gpu {
namespace {

using namespace ampere;

constexpr int kKeys = 64;         // of a block
constexpr int kRows = kListTile;  // of a list tile
constexpr int kThreads = 128;
constexpr int kKeysPerWarp = 32;
constexpr int kPairs = kKeys / kKeysPerWarp;
constexpr int kM = kKeysPerWarp / 16;  // fragments of a warp's keys
constexpr int kHalfRows = kRows / 2;

using Scores = float[kM][kHalfRows / 8][4];
using Packed = uint32_t[kHalfRows / 16][kM][4];

// A list tile of one query head.
struct Place {
  int list;
  int head;
  int row;  // index of the first
};

// What a block computes: of either list all tiles of one query head, then those of the next. Kept
// in shared memory, registers being scarce.
struct Block {
  int kv_head;
  int32_t first_key;
  int first_head, heads;  // of the KV head's group
  int begin[2], end[2];   // of the listed rows that see one of the keys

  __device__ int first_tile(int list) const { return begin[list] / kRows; }
  __device__ int tiles(int list) const {
    return begin[list] < end[list] ? (end[list] + kRows - 1) / kRows - first_tile(list) : 0;
  }
  __device__ int steps() const { return (tiles(0) + tiles(1)) * heads; }
  __device__ Place place(int step) const {
    const int steps_before = tiles(0) * heads;
    const int list = step < steps_before ? 0 : 1;
    const int here = list == 0 ? step : step - steps_before;
    const int head = here / tiles(list);
    const int tile = first_tile(list) + here - head * tiles(list);
    return {list, first_head + head, tile * kRows};
  }
};

template <int kHeadDim>
struct Shared {
  struct Stage {
    __nv_bfloat16 query[kRows * kHeadDim];
    __nv_bfloat16 grad_out[kRows * kHeadDim];
  };
  Stage stage[2];
  RowTile rows[2];
  uint4 weights[kPairs][2][kHalfRows / 16][kM][32];  // of half a tile, as packed by each thread
  uint64_t weights_made[kPairs][2];  // barriers; one for each half, so that its maker may run ahead
  Block block;
};

template <int kHeadDim>
class Worker {
 public:
  __device__ Worker(Shared<kHeadDim>& shared, const KeyGradientArguments& a)
      : shared_(shared), a_(a) {}

  __device__ void run() {
    const int steps = shared_.block.steps();
    if (steps > 0) {
      request_keys();
      request(0);
      load_keys();
    }
    for (int step = 0; step < steps; ++step) {
      wait_copies<0>();
      __syncthreads();
      if (step + 1 < steps) request(step + 1);
      visit(step);
    }
    if (gradients_) {
      write(a_.grad_key, a_.keys.scale);
    } else {
      write(a_.grad_value, 1.0F);
    }
  }

 private:
  using Operand = Matrix<kHeadDim>;

  // The keys come by way of the second stage.
  __device__ void request_keys() {
    static_assert(kKeys == kRows);
    copy_keys(shared_.stage[1].query, a_.keys.key);
    copy_keys(shared_.stage[1].grad_out, a_.keys.value);
    commit_copies();
  }

  __device__ void copy_keys(__nv_bfloat16* to, const Bf16* from) const {
    const Block& block = shared_.block;
    copy_rows<kHeadDim, kKeys, kThreads>(
        shared_address(to),
        static_cast<const __nv_bfloat16*>(from) + block.first_key * a_.keys.stride +
            block.kv_head * kHeadDim,
        a_.keys.stride, static_cast<int>(min(a_.keys.tokens - block.first_key, int64_t{kKeys})));
  }

  __device__ void load_keys() {
    wait_copies<1>();
    __syncthreads();
    const auto* from = gradients_ ? shared_.stage[1].grad_out : shared_.stage[1].query;
    const uint32_t own = Operand::block(Operand::by_columns(shared_address(from)), own_key_, 0);
#pragma unroll
    for (int k = 0; k < kHeadDim / 16; ++k) load_step<kHeadDim>(keys_[k], own, 16 * k);
  }

  __device__ void request(int step) {
    const int stage = step % 2;
    const Place place = shared_.block.place(step);
    const ListedRows& from = place.list == 0 ? a_.rows : a_.more_rows;
    const int64_t column = place.head * kHeadDim;
    const int64_t stride = a_.keys.heads * kHeadDim;
    const auto present = static_cast<int>(min(from.rows - place.row, int64_t{kRows}));
    copy_rows<kHeadDim, kRows, kThreads>(
        shared_address(shared_.stage[stage].query),
        static_cast<const __nv_bfloat16*>(from.query) + place.row * from.query_stride + column,
        from.query_stride, present);
    copy_rows<kHeadDim, kRows, kThreads>(
        shared_address(shared_.stage[stage].grad_out),
        static_cast<const __nv_bfloat16*>(from.grad_out) + place.row * stride + column, stride,
        present);
    const int64_t statistics = place.head * list_capacity(a_.keys.tokens) + place.row;
    RowTile& rows = shared_.rows[stage];
    copy_numbers(rows.lse, from.lse + statistics, 0);
    copy_numbers(rows.delta, from.delta + statistics, 1);
    copy_numbers(rows.first_key, from.list.first_key + place.row, 2);
    copy_numbers(rows.last_key, from.list.last_key + place.row, 3);
    commit_copies();
  }

  // One number a row, by the warp of this index.
  template <class Number>
  __device__ static void copy_numbers(Number (&to)[kRows], const Number* from, int warp) {
    constexpr int kNumbers = 16 / sizeof(Number);
    const int i = static_cast<int>(reread_thread()) - 32 * warp;
    if (i < 0 || i >= kRows / kNumbers) return;
    copy_16(shared_address(to) + 16 * i, from + kNumbers * i, true);
  }

  // One list tile of one query head. Not unrolled: both halves at once would not fit the registers.
  __device__ void visit(int step) {
    const int stage = step % 2;
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const auto& operands = shared_.stage[stage];
      const uint32_t query = half_rows(operands.query, half);
      const uint32_t grad_out = half_rows(operands.grad_out, half);
      Scores scores = {};
      multiply_nt<kHeadDim>(scores, keys_, Operand::by_rows(gradients_ ? grad_out : query));
      Packed packed;
      if (gradients_) {
        wait(&shared_.weights_made[pair_][half], step & 1);
        score_gradients(scores, shared_.rows[stage], half, packed);
      } else {
        weigh(scores, shared_.rows[stage], half);
        pack_operand(scores, packed);
        hand_over(packed, half);
        arrive(&shared_.weights_made[pair_][half]);
      }
      multiply_nn<kHeadDim>(grad_, packed, Operand::by_columns(gradients_ ? query : grad_out));
    }
  }

  __device__ static uint32_t half_rows(const __nv_bfloat16* rows, int half) {
    return shared_address(rows) + half * kHalfRows * Operand::kRowBytes;
  }

  __device__ void weigh(Scores& scores, const RowTile& rows, int half) const {
    const int begin = half * kHalfRows;
    const float scale = a_.keys.scale * kLog2E;
#pragma unroll
    for (int n = 0; n < kHalfRows / 8; ++n) {
      const float2 lse = *reinterpret_cast<const float2*>(&rows.lse[begin + sum_column(n, 0)]);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          scores[m][n][e] =
              exp2_approximate(scores[m][n][e] * scale - (e % 2 == 0 ? lse.x : lse.y));
        }
      }
    }
    const int32_t first_key = shared_.block.first_key;
    const bool all_visible =
        rows.last_key[0] >= first_key + kKeys - 1 && rows.first_key[kRows - 1] <= first_key;
    if (!all_visible) mask(scores, rows, begin);
  }

  __device__ void mask(Scores& weights, const RowTile& rows, int begin) const {
#pragma unroll
    for (int n = 0; n < kHalfRows / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int32_t first = rows.first_key[begin + sum_column(n, e)];
        const int32_t last = rows.last_key[begin + sum_column(n, e)];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          const int32_t key = shared_.block.first_key + own_key_ + sum_row(m, e);
          if (key < first || key > last) weights[m][n][e] = 0.0F;
        }
      }
    }
  }

  // The pair's place for the weights of half a tile, and this thread's part of it.
  __device__ uint4* weights(int half) const {
    return &shared_.weights[pair_][half][0][0][threadIdx.x % 32];
  }

  __device__ void hand_over(const Packed& packed, int half) {
    uint4* const to = weights(half);
#pragma unroll
    for (int k = 0; k < kHalfRows / 16; ++k) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const uint32_t(&word)[4] = packed[k][m];
        to[(k * kM + m) * 32] = make_uint4(word[0], word[1], word[2], word[3]);
      }
    }
  }

  // dS^T of the weights that the pair's first warp has made.
  __device__ void score_gradients(const Scores& grad, const RowTile& rows, int half,
                                  Packed& packed) const {
    const float* const delta = rows.delta + half * kHalfRows;
#pragma unroll
    for (int k = 0; k < kHalfRows / 16; ++k) {
      const float2 left = *reinterpret_cast<const float2*>(&delta[sum_column(2 * k, 0)]);
      const float2 right = *reinterpret_cast<const float2*>(&delta[sum_column(2 * k + 1, 0)]);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const uint4 words = weights(half)[(k * kM + m) * 32];
        packed[k][m][0] = score_gradient(words.x, grad[m][2 * k], 0, left);
        packed[k][m][1] = score_gradient(words.y, grad[m][2 * k], 2, left);
        packed[k][m][2] = score_gradient(words.z, grad[m][2 * k + 1], 0, right);
        packed[k][m][3] = score_gradient(words.w, grad[m][2 * k + 1], 2, right);
      }
    }
  }

  // Of two neighbours, elements e and e + 1 of a fragment.
  __device__ static uint32_t score_gradient(uint32_t weights, const float (&grad)[4], int e,
                                            float2 delta) {
    return pack_pair(__uint_as_float(weights << 16) * (grad[e] - delta.x),
                     __uint_as_float(weights & 0xffff0000U) * (grad[e + 1] - delta.y));
  }

  __device__ void write(Bf16* gradient, float scale) const {
    const Block& block = shared_.block;
    auto* const head = static_cast<__nv_bfloat16*>(gradient) + block.kv_head * kHeadDim;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t key = block.first_key + own_key_ + sum_row(m, 2 * h);
        if (key >= a_.keys.tokens) continue;
        put_row(head + key * a_.grad_stride, grad_[m], h, scale, false);
      }
    }
  }

  Shared<kHeadDim>& shared_;
  const KeyGradientArguments& a_;
  const int pair_ = static_cast<int>(threadIdx.x / 32 % kPairs);
  const bool gradients_ = threadIdx.x / 32 >= kPairs;  // the pair's second warp
  const int own_key_ = pair_ * kKeysPerWarp;
  uint32_t keys_[kHeadDim / 16][kM][4];   // K in the first warp, V in the second
  float grad_[kM][kHeadDim / 8][4] = {};  // dV and dK
};

// The first keys are seen by the most rows: they come first. Two warps a list search for the rows.
// A barrier of the block.
__device__ void take_keys(const KeyGradientArguments& a, Block& block) {
  const auto kv_heads = static_cast<int>(a.keys.kv_heads);
  const int kv_head = static_cast<int>(blockIdx.x) % kv_heads;
  const int32_t first_key = static_cast<int>(blockIdx.x) / kv_heads * kKeys;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int32_t found = find_bound(a, warp, first_key, kKeys);
  if (threadIdx.x % 32 == 0) (warp % 2 == 0 ? block.begin : block.end)[warp / 2] = found;
  if (threadIdx.x == 0) {
    block.kv_head = kv_head;
    block.first_key = first_key;
    block.heads = static_cast<int>(a.keys.heads) / kv_heads;
    block.first_head = kv_head * block.heads;
  }
  __syncthreads();
}

template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, kHeadDim == 64 ? 3 : 2)
    key_gradient(const __grid_constant__ KeyGradientArguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim>*>(memory);
  if (threadIdx.x < 2 * kPairs) init_barrier(&shared.weights_made[0][0] + threadIdx.x, 32);
  take_keys(a, shared.block);
  Worker<kHeadDim>(shared, a).run();
}

template <int kHeadDim>
void launch(const KeyGradientArguments& a, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  SWIATTN_CHECK_CUDA(cudaFuncSetAttribute(key_gradient<kHeadDim>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t blocks = (a.keys.tokens + kKeys - 1) / kKeys * a.keys.kv_heads;
  key_gradient<kHeadDim><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

}  // namespace

void key_gradient_sm80(const KeyGradientArguments& a, void* stream) {
  if (a.keys.tokens == 0) return;
  with_head_dim(a.keys.head_dim,
                [&](auto head_dim) { launch<decltype(head_dim)::value>(a, as_stream(stream)); });
}

}  // namespace swiattn::gpu
