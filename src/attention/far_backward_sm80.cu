// The backward of listed rows on Ampere and later: mma.sync products, operands by asynchronous
// copies.
//
// A block owns 64 keys of one KV head and walks over the list tiles (64 rows) of every query head
// that shares them, so that dK and dV stay in registers to the end. Two warps work on the same 32
// keys: one makes the weights and dV, the other their gradients and dK. With the keys along the
// rows of the products
//
//   first warp                          second warp
//   S^T = K Q^T                         dP^T = V dO^T            [32 keys, 64 rows]
//   P^T = exp(S^T - lse)  ──shared──▶   dS^T = P^T (dP^T - delta)
//   dV += P^T dO                        dK  += dS^T Q            [32 keys, D]
//
// and all four warps, from dS of all 64 keys in shared memory,
//
//   dQ^T = K^T dS^T                                              [D / 2, 32 rows]
//
// Each product of a warp so has 32 x 64 sums or more for the operands that it reads from shared
// memory, whose bandwidth is what limits these products. dQ is added to float32 in global memory;
// the order of these additions varies, all else is deterministic.
//
// 73 KiB of shared memory at D 128, 41 at D 64. Operands have one buffer only: while they come, the
// other block of the multiprocessor computes.
#include <cuda_runtime.h>

#include <stdexcept>

#include "attention/listed_tile.cuh"
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

struct RowStatistics {
  float lse[kRows];  // base 2
  float delta[kRows];
  int32_t first_key[kRows];
  int32_t last_key[kRows];
};

// A list tile of one query head.
struct Place {
  int row;  // index of the first
  int head;
};

// What a block computes: all list tiles of one query head, then those of the next. Kept in shared
// memory, registers being scarce.
struct Block {
  int kv_head;
  int32_t first_key;
  int begin, end;  // of the listed rows that see one of the keys
  int first_head, last_head;

  __device__ Place first() const { return {begin / kRows * kRows, first_head}; }
  // False after the last one.
  __device__ bool advance(Place& place) const {
    place.row += kRows;
    if (place.row < end) return true;
    place = {first().row, place.head + 1};
    return place.head <= last_head;
  }
};

template <int kHeadDim>
struct Shared {
  __nv_bfloat16 key[kKeys * kHeadDim];
  __nv_bfloat16 value[kKeys * kHeadDim];
  __nv_bfloat16 query[kRows * kHeadDim];
  __nv_bfloat16 grad_out[kRows * kHeadDim];
  // A pair's weights, in fragment order, and then their gradients, a row of 64 columns a key.
  __nv_bfloat16 scores[kPairs][kKeysPerWarp * kRows];
  RowStatistics rows;
  Block block;
};

template <int kHeadDim, bool kWithQuery>
class Worker {
 public:
  __device__ Worker(Shared<kHeadDim>& shared, const ListedBackwardArguments& a)
      : shared_(shared), a_(a) {}

  __device__ void run() {
    copy_keys(shared_.key, a_.operands.key);
    copy_keys(shared_.value, a_.operands.value);
    Place place = shared_.block.first();
    request(place);
    for (bool more = true; more;) {
      wait_copies<0>();
      __syncthreads();
      visit_rows();
      __syncthreads();
      const Place visited = place;
      more = shared_.block.advance(place);
      if (more) request(place);
      if (kWithQuery) add_query_part(visited);
    }
    if (gradients_) {
      add_to(a_.grad_key, a_.operands.scale);
    } else {
      add_to(a_.grad_value, 1.0F);
    }
  }

 private:
  using Operand = Matrix<kHeadDim>;
  using ScoreMatrix = Matrix<kRows>;
  using Scores = float[kM][kRows / 8][4];
  using Packed = uint32_t[kM][kRows / 16][4];

  // Copies

  __device__ void copy_keys(__nv_bfloat16* to, const Bf16* from) const {
    const ListedOperands& o = a_.operands;
    copy_rows<kHeadDim, kKeys, kThreads>(
        shared_address(to),
        static_cast<const __nv_bfloat16*>(from) + shared_.block.first_key * o.key_stride +
            shared_.block.kv_head * kHeadDim,
        o.key_stride, static_cast<int>(min(o.tokens - shared_.block.first_key, int64_t{kKeys})));
  }

  __device__ void request(const Place& place) const {
    const ListedOperands& o = a_.operands;
    const ListedGradients& g = a_.gradients;
    const int64_t offset = (place.row * o.heads + place.head) * kHeadDim;
    copy_rows<kHeadDim, kRows, kThreads>(
        shared_address(shared_.query), static_cast<const __nv_bfloat16*>(o.compact_query) + offset,
        o.heads * kHeadDim, kRows);
    copy_rows<kHeadDim, kRows, kThreads>(
        shared_address(shared_.grad_out),
        static_cast<const __nv_bfloat16*>(g.compact_grad_out) + offset, o.heads * kHeadDim, kRows);
    const int64_t statistics = place.head * list_capacity(o.tokens) + place.row;
    copy_statistic(shared_.rows.lse, g.compact_lse + statistics, 0);
    copy_statistic(shared_.rows.delta, g.compact_delta + statistics, 1);
    copy_statistic(shared_.rows.first_key, o.list.first_key + place.row, 2);
    copy_statistic(shared_.rows.last_key, o.list.last_key + place.row, 3);
    commit_copies();
  }

  // One number a row, by the warp of this index.
  template <class Number>
  __device__ static void copy_statistic(Number (&to)[kRows], const Number* from, int warp) {
    constexpr int kNumbers = 16 / sizeof(Number);
    const int i = static_cast<int>(threadIdx.x) - 32 * warp;
    if (i < 0 || i >= kRows / kNumbers) return;
    copy_16(shared_address(to) + 16 * i, from + kNumbers * i, true);
  }

  // The pair's keys and one list tile of one query head

  __device__ void visit_rows() {
    const uint32_t left = shared_address(gradients_ ? shared_.value : shared_.key);
    const uint32_t right = shared_address(gradients_ ? shared_.grad_out : shared_.query);
    Scores scores = {};
    multiply_rows<kHeadDim>(scores, Operand::block(Operand::by_columns(left), own_key_, 0),
                            Operand::by_rows(right));
    Packed packed;
    if (gradients_) {
      pair_ == 0 ? await<1>(64) : await<2>(64);
      score_gradients(scores, packed);
    } else {
      weigh(scores);
      pack_operand(scores, packed);
      hand_over(packed);
      pair_ == 0 ? announce<1>(64) : announce<2>(64);
    }
    const uint32_t rows = shared_address(gradients_ ? shared_.query : shared_.grad_out);
    multiply_packed<kHeadDim>(grad_, packed, Operand::by_columns(rows));
  }

  __device__ void weigh(Scores& scores) const {
    const RowStatistics& rows = shared_.rows;
    const float scale = a_.operands.scale * kLog2E;
    const bool all_visible = rows.last_key[0] >= shared_.block.first_key + kKeys - 1 &&
                             rows.first_key[kRows - 1] <= shared_.block.first_key;
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
      const float2 lse = *reinterpret_cast<const float2*>(&rows.lse[sum_column(n, 0)]);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float minus = e % 2 == 0 ? lse.x : lse.y;
          scores[m][n][e] = power_of_two(scores[m][n][e] * scale - minus);
        }
      }
    }
    if (!all_visible) mask(scores);
  }

  __device__ void mask(Scores& weights) const {
    const RowStatistics& rows = shared_.rows;
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int32_t first = rows.first_key[sum_column(n, e)];
        const int32_t last = rows.last_key[sum_column(n, e)];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          const int32_t key = shared_.block.first_key + own_key_ + sum_row(m, e);
          if (key < first || key > last) weights[m][n][e] = 0.0F;
        }
      }
    }
  }

  __device__ void hand_over(const Packed& weights) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int k = 0; k < kRows / 16; ++k) {
        const uint32_t(&word)[4] = weights[m][k];
        fragments()[(m * kRows / 16 + k) * 32] = make_uint4(word[0], word[1], word[2], word[3]);
      }
    }
  }

  // dS^T of the weights that the pair's first warp has made.
  __device__ void score_gradients(const Scores& grad, Packed& packed) {
#pragma unroll
    for (int k = 0; k < kRows / 16; ++k) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const uint4 weights = fragments()[(m * kRows / 16 + k) * 32];
        packed[m][k][0] = score_gradient(weights.x, grad[m][2 * k], 2 * k, 0);
        packed[m][k][1] = score_gradient(weights.y, grad[m][2 * k], 2 * k, 1);
        packed[m][k][2] = score_gradient(weights.z, grad[m][2 * k + 1], 2 * k + 1, 0);
        packed[m][k][3] = score_gradient(weights.w, grad[m][2 * k + 1], 2 * k + 1, 1);
      }
    }
    if (kWithQuery) share(packed);
  }

  // Of a pair of neighbours in a fragment [16, 8]: its upper or lower half.
  __device__ uint32_t score_gradient(uint32_t weights, const float (&grad)[4], int n,
                                     int half) const {
    const float2 delta = *reinterpret_cast<const float2*>(&shared_.rows.delta[sum_column(n, 0)]);
    return pack_pair(__uint_as_float(weights << 16) * (grad[2 * half] - delta.x),
                     __uint_as_float(weights & 0xffff0000U) * (grad[2 * half + 1] - delta.y));
  }

  // Over the weights, once the whole warp has read them.
  __device__ void share(const Packed& grad) {
    __syncwarp();
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const uint32_t at =
              ScoreMatrix::chunk(0, sum_row(m, 2 * h), n) + sizeof(uint32_t) * (threadIdx.x % 4);
          auto* const to = reinterpret_cast<uint8_t*>(shared_.scores[pair_]) + at;
          *reinterpret_cast<uint32_t*>(to) = grad[m][n / 2][n % 2 * 2 + h];
        }
      }
    }
  }

  // dQ of the block's keys: this warp's half of the columns and of the rows.
  __device__ void add_query_part(const Place& place) const {
    constexpr int kColumns = kHeadDim / 2;
    const int column = pair_ * kColumns;
    const int own_row = gradients_ ? kRows / 2 : 0;
    float sum[kColumns / 16][kRows / 2 / 8][4] = {};
    multiply_columns<kKeys, kHeadDim, kRows>(
        sum, Operand::block(Operand::by_rows(shared_address(shared_.key)), 0, column),
        ScoreMatrix::block(ScoreMatrix::by_columns(shared_address(shared_.scores)), 0, own_row));
    const int64_t stride = a_.operands.heads * kHeadDim;
    float* const to = a_.compact_grad_q + (place.row + own_row + sum_column(0, 0)) * stride +
                      place.head * kHeadDim + column + sum_row(0, 0);
#pragma unroll
    for (int n = 0; n < kRows / 2 / 8; ++n) {
#pragma unroll
      for (int m = 0; m < kColumns / 16; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          atomicAdd(to + (8 * n + e % 2) * stride + 16 * m + e / 2 * 8,
                    sum[m][n][e] * a_.operands.scale);
        }
      }
    }
  }

  __device__ void add_to(Bf16* gradient, float scale) const {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int64_t key = shared_.block.first_key + own_key_ + sum_row(m, 2 * h);
        if (key >= a_.operands.tokens) continue;
        auto* const to = reinterpret_cast<__nv_bfloat162*>(
            static_cast<__nv_bfloat16*>(gradient) + key * a_.grad_stride +
            shared_.block.kv_head * kHeadDim + sum_column(0, 0));
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          const float2 before = __bfloat1622float2(to[4 * n]);
          to[4 * n] = __floats2bfloat162_rn(before.x + grad_[m][n][2 * h] * scale,
                                            before.y + grad_[m][n][2 * h + 1] * scale);
        }
      }
    }
  }

  __device__ uint4* fragments() const {
    return reinterpret_cast<uint4*>(shared_.scores[pair_]) + threadIdx.x % 32;
  }

  Shared<kHeadDim>& shared_;
  const ListedBackwardArguments& a_;
  const int pair_ = static_cast<int>(threadIdx.x / 32 % kPairs);
  const bool gradients_ = threadIdx.x / 32 >= kPairs;  // the pair's second warp
  const int own_key_ = pair_ * kKeysPerWarp;
  float grad_[kM][kHeadDim / 8][4] = {};  // dV in the first warp, dK in the second
};

// The first keys are seen by the most rows: they come first. A barrier of the block.
__device__ void take_keys(const ListedOperands& o, Block& block) {
  const auto kv_heads = static_cast<int>(o.kv_heads);
  const int kv_head = static_cast<int>(blockIdx.x) % kv_heads;
  const int32_t first_key = static_cast<int>(blockIdx.x) / kv_heads * kKeys;
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const int32_t count = *o.list.count;
  if (warp == 0) {
    const int begin = lower_bound(o.list.last_key, count, first_key);
    if (threadIdx.x == 0) block.begin = begin;
  } else if (warp == 1) {
    const int end = lower_bound(o.list.first_key, count, first_key + kKeys);
    if (threadIdx.x == 32) block.end = end;
  } else if (threadIdx.x == 64) {
    const int group = static_cast<int>(o.heads) / kv_heads;
    block.kv_head = kv_head;
    block.first_key = first_key;
    block.first_head = kv_head * group;
    block.last_head = block.first_head + group - 1;
  }
  __syncthreads();
}

template <int kHeadDim, bool kWithQuery>
__global__ void __launch_bounds__(kThreads, kHeadDim == 64 ? 3 : 2)
    backward(const __grid_constant__ ListedBackwardArguments a) {
  extern __shared__ __align__(1024) uint8_t memory[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim>*>(memory);
  take_keys(a.operands, shared.block);
  if (shared.block.begin >= shared.block.end) return;
  Worker<kHeadDim, kWithQuery>(shared, a).run();
}

template <int kHeadDim, bool kWithQuery>
void launch(const ListedBackwardArguments& a, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kHeadDim>);
  SWIATTN_CHECK_CUDA(cudaFuncSetAttribute(backward<kHeadDim, kWithQuery>,
                                          cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  const int64_t blocks = (a.operands.tokens + kKeys - 1) / kKeys * a.operands.kv_heads;
  backward<kHeadDim, kWithQuery><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(a);
  SWIATTN_CHECK_CUDA(cudaGetLastError());
}

template <int kHeadDim>
void launch(const ListedBackwardArguments& a, cudaStream_t stream) {
  if (a.compact_grad_q != nullptr) return launch<kHeadDim, true>(a, stream);
  launch<kHeadDim, false>(a, stream);
}

}  // namespace

void listed_backward_sm80(const ListedBackwardArguments& a, void* stream) {
  if (a.operands.tokens == 0) return;
  if (a.operands.head_dim == 64) return launch<64>(a, as_stream(stream));
  if (a.operands.head_dim == 128) return launch<128>(a, as_stream(stream));
  throw std::runtime_error("The listed backward has head widths 64 and 128.");
}

}  // namespace swiattn::gpu
