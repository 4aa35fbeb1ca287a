// What the Hopper kernels share: tiles in shared memory as boxes of 64 swizzled columns, products
// between them, and where the elements of a product lie among a warpgroup's threads. Products are
// named as by BLAS: multiply_nt is left right^T, multiply_nn left right.
#pragma once

#include "attention/hopper.cuh"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu {

constexpr int kWarpgroup = 128;       // threads
constexpr int kBoxColumns = 64;       // of one box
constexpr int kBoxRow = 128;          // bytes
constexpr int kSum16 = 16 * kBoxRow;  // bytes of 16 rows, what one product sums over

using BoxRow = __nv_bfloat16[kBoxColumns];

// A block's dynamic shared memory as a T that begins where a swizzled box may.
template <class T>
__device__ inline T& aligned_shared() {
  extern __shared__ uint8_t memory[];
  const uint32_t misaligned = shared_address(memory) % 1024;
  return *reinterpret_cast<T*>(memory + (1024 - misaligned) % 1024);
}
// Its bytes, with room to move it there.
template <class T>
constexpr int shared_bytes() {
  constexpr int kMost = 227 * 1024;  // of a block
  constexpr int kBytes = static_cast<int>(sizeof(T)) + 1024;
  static_assert(kBytes <= kMost, "a block's shared memory");
  return kBytes;
}

// Two computing warpgroups take turns in starting their score products, so that the exponentials of
// the one overlap the products of the other: left alone they fall into step, and the tensor cores
// idle while both compute exponentials. `group` is 0 or 1; both take `count` turns.
class Turns {
 public:
  __device__ Turns(int group, int count) : group_(group), left_(count) {
    if (group_ == 1 && left_ > 0) arrive(0);
  }
  __device__ void take() const { hopper::named_barrier(1 + group_, 2 * kWarpgroup); }
  __device__ void pass() {
    if (--left_ > 0 || group_ == 0) arrive(1 - group_);
  }
  __device__ void skip() {
    take();
    pass();
  }

 private:
  static __device__ void arrive(int group) { hopper::arrive_named(1 + group, 2 * kWarpgroup); }
  int group_, left_;
};

// This thread among its warpgroup's 64 rows: in element 4 j + e of a product [64, 8 n] it has row
// row(e) and column column(j, e).
struct Fragment {
  int first_row = 16 * (static_cast<int>(threadIdx.x) % kWarpgroup / 32) +
                  static_cast<int>(threadIdx.x) % 32 / 4;
  int first_column = 2 * (static_cast<int>(threadIdx.x) % 4);
  __device__ int row(int e) const { return first_row + 8 * (e / 2); }
  __device__ int column(int j, int e) const { return first_column + 8 * j + e % 2; }
};

// A product [64, 16 kSteps] in bfloat16 as the left operand of the next one, step by step.
template <int kSteps>
__device__ inline void pack_operand(const float (&product)[8 * kSteps],
                                    uint32_t (&packed)[kSteps][4]) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      packed[k][i] = pack_pair(product[8 * k + 2 * i], product[8 * k + 2 * i + 1]);
    }
  }
}

// sum [64, n] = left [64, D] right [n, D]^T. `left` is the address of the first of the 64 rows
// among kLeftRows, `right` that of the first of the n rows among kRightRows.
template <int kHeadDim, int kLeftRows, int kRightRows, int kSums>
__device__ inline void multiply_nt(float (&sum)[kSums], uint32_t left, uint32_t right) {
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
    const uint32_t column = k % 4 * 32;
    hopper::multiply<hopper::kAlongSum, hopper::kAlongSum>(
        sum, hopper::operand(left + k / 4 * kLeftRows * kBoxRow + column),
        hopper::operand(right + k / 4 * kRightRows * kBoxRow + column), k > 0);
  }
}

// sum [64, D] += left [64, 16 kSteps] right [16 kSteps, D], `left` in registers. `right` is the
// address of the first of its rows among kRightRows.
template <int kHeadDim, int kRightRows, int kSteps>
__device__ inline void multiply_nn(float (&sum)[kHeadDim / 2], const uint32_t (&left)[kSteps][4],
                                   uint32_t right) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    hopper::multiply<hopper::kAcrossSum>(
        sum, left[k], hopper::operand(right + k * kSum16, kRightRows * kBoxRow), true);
  }
}

// Writes scale * sum [64, D] to rows of bfloat16, or adds it; row_at(row) is where a row begins, or
// null.
template <int kHeadDim, class Row>
__device__ inline void put_rows(const float (&sum)[kHeadDim / 2], float scale, bool add,
                                const Row& row_at) {
  const Fragment fragment;
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    __nv_bfloat16* const row = row_at(fragment.row(e));
    if (row == nullptr) continue;
    auto* const at = reinterpret_cast<__nv_bfloat162*>(row + fragment.first_column);
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      const float2 before = add ? __bfloat1622float2(at[4 * j]) : float2{0.0F, 0.0F};
      at[4 * j] = __floats2bfloat162_rn(before.x + sum[4 * j + e] * scale,
                                        before.y + sum[4 * j + e + 1] * scale);
    }
  }
}

}  // namespace swiattn::gpu
