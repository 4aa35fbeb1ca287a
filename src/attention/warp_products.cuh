// Matrices of bfloat16 in shared memory, and what a warp of Ampere multiplies out of them.
//
// A matrix has 64 or 128 columns. Each row is stored in chunks of 16 bytes, chunk c of row r in the
// place of chunk c ^ (r % 8): eight rows of one chunk column, which is what a load of matrices and
// its transpose touch at once, then lie in different banks, and so do the chunks of a row. Matrices
// begin at multiples of 256 bytes.
//
// Products are named as by BLAS: multiply_nt adds left right^T, multiply_nn left right.
//
// Sums are arrays [m][n][4] of fragments [16, 8]; left operands in registers are arrays [k][m][4]
// of fragments [16, 16], k along the summed dimension (see ampere.cuh).
#pragma once

#include "attention/ampere.cuh"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu::ampere {

template <int kColumns>
struct Matrix {
  static_assert(kColumns == 64 || kColumns == 128);
  static constexpr uint32_t kRowBytes = kColumns * sizeof(__nv_bfloat16);
  static constexpr int kChunks = kColumns / kVector;  // of a row

  __device__ static uint32_t chunk(uint32_t matrix, int row, int index) {
    return matrix + row * kRowBytes + ((index ^ (row % 8)) * 16);
  }

  // The lane's part of the address of a 16 x 16 block for a load of its four 8 x 8 matrices, in
  // the order (upper left, lower left, upper right, lower right) ...
  __device__ static uint32_t by_columns(uint32_t matrix) {
    const uint32_t lane = reread_thread() % 32;
    return chunk(matrix, lane % 16, lane / 16);
  }
  // ... or (upper left, upper right, lower left, lower right).
  __device__ static uint32_t by_rows(uint32_t matrix) {
    const uint32_t lane = reread_thread() % 32;
    return chunk(matrix, lane / 16 * 8 + lane % 8, lane / 8 % 2);
  }
  // That address for the block at a row and column that are multiples of 16. Chunks keep their
  // group of eight.
  __device__ static uint32_t block(uint32_t lane_address, int row, int column) {
    return (lane_address ^ (column % 64 / kVector * 16)) + column / 64 * 128 + row * kRowBytes;
  }
};

// Asks for kRows rows, `stride` elements apart, by all kThreads threads of the block. Those from
// `present` on are zeros. The copies end with the thread's next group.
template <int kColumns, int kRows, int kThreads>
__device__ inline void copy_rows(uint32_t matrix, const __nv_bfloat16* from, int64_t stride,
                                 int present) {
  constexpr int kChunks = Matrix<kColumns>::kChunks;
  constexpr int kRowsAtOnce = kThreads / kChunks;
  static_assert(kRowsAtOnce % 8 == 0 && kRows % kRowsAtOnce == 0);
  const uint32_t thread = reread_thread();
  const auto row = static_cast<int>(thread / kChunks);
  const auto chunk = static_cast<int>(thread % kChunks);
  const uint32_t to = Matrix<kColumns>::chunk(matrix, row, chunk);
  const __nv_bfloat16* source = from + row * stride + chunk * kVector;
  const int present_from_here = present - row;
#pragma unroll
  for (int i = 0; i < kRows; i += kRowsAtOnce) {
    copy_16(to + i * Matrix<kColumns>::kRowBytes, source, i < present_from_here);
    source += kRowsAtOnce * stride;
  }
}

// A step of a left operand: rows [16 kM], columns from `column` on. `from` is by columns.
template <int kColumns, int kM>
__device__ inline void load_step(uint32_t (&left)[kM][4], uint32_t from, int column) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    load_matrices(left[m], Matrix<kColumns>::block(from, 16 * m, column));
  }
}

// sum [16 kM, 16] of fragments n and n + 1 += left [16 kM, 16] right [16, 16]
template <int kM, int kN>
__device__ inline void multiply_step(float (&sum)[kM][kN][4], int n, const uint32_t (&left)[kM][4],
                                     const uint32_t (&right)[4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    multiply(sum[m][n], left[m], right[0], right[1]);
    multiply(sum[m][n + 1], left[m], right[2], right[3]);
  }
}

// sum += left [16 kM, kColumns] right [8 kN, kColumns]^T; left by columns, right by rows.
template <int kColumns, int kM, int kN>
__device__ inline void multiply_nt(float (&sum)[kM][kN][4], uint32_t left, uint32_t right) {
#pragma unroll
  for (int k = 0; k < kColumns / 16; ++k) {
    uint32_t a[kM][4];
    load_step<kColumns>(a, left, 16 * k);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      load_matrices(b, Matrix<kColumns>::block(right, 8 * n, 16 * k));
      multiply_step(sum, n, a, b);
    }
  }
}

// The same, left in registers.
template <int kColumns, int kM, int kN>
__device__ inline void multiply_nt(float (&sum)[kM][kN][4],
                                   const uint32_t (&left)[kColumns / 16][kM][4], uint32_t right) {
#pragma unroll
  for (int k = 0; k < kColumns / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      load_matrices(b, Matrix<kColumns>::block(right, 8 * n, 16 * k));
      multiply_step(sum, n, left[k], b);
    }
  }
}

// sum += left [16 kM, 16 kK] right [16 kK, 8 kN], left in registers; right by columns.
template <int kColumns, int kM, int kN, int kK>
__device__ inline void multiply_nn(float (&sum)[kM][kN][4], const uint32_t (&left)[kK][kM][4],
                                   uint32_t right) {
#pragma unroll
  for (int k = 0; k < kK; ++k) {
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      load_transposed(b, Matrix<kColumns>::block(right, 16 * k, 8 * n));
      multiply_step(sum, n, left[k], b);
    }
  }
}

// Sums, rounded, as the left operand of another product.
template <int kM, int kK>
__device__ inline void pack_operand(const float (&sum)[kM][2 * kK][4],
                                    uint32_t (&packed)[kK][kM][4]) {
#pragma unroll
  for (int k = 0; k < kK; ++k) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&part)[4] = sum[m][2 * k + i / 2];
        packed[k][m][i] = pack_pair(part[i % 2 * 2], part[i % 2 * 2 + 1]);
      }
    }
  }
}

// Where element e of fragment (m, n) lies in a sum.
__device__ inline int sum_row(int m, int e) {
  return 16 * m + static_cast<int>(threadIdx.x % 32 / 4) + e / 2 * 8;
}
__device__ inline int sum_column(int n, int e) {
  return 8 * n + static_cast<int>(threadIdx.x % 4) * 2 + e % 2;
}

// Writes rows sum_row(m, 2 half) of scale * sum, one for each four threads, or adds them.
template <int kN>
__device__ inline void put_row(__nv_bfloat16* row, const float (&sum)[kN][4], int half, float scale,
                               bool add) {
  auto* const to = reinterpret_cast<__nv_bfloat162*>(row + sum_column(0, 0));
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    const float2 before = add ? __bfloat1622float2(to[4 * n]) : float2{0.0F, 0.0F};
    to[4 * n] = __floats2bfloat162_rn(before.x + sum[n][2 * half] * scale,
                                      before.y + sum[n][2 * half + 1] * scale);
  }
}

}  // namespace swiattn::gpu::ampere
