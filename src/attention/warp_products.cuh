// Matrices of bfloat16 in shared memory, and what a warp of Ampere multiplies out of them.
//
// A matrix has 64 or 128 columns. Each row is stored in chunks of 16 bytes, chunk c of row r in the
// place of chunk c ^ (r % 8): eight rows of one chunk column, which is what a load of matrices and
// its transpose touch at once, then lie in different banks, and so do the chunks of a row. Matrices
// begin at multiples of 256 bytes.
//
// Sums are arrays [m][n][4] of fragments [16, 8]; packed operands are arrays [m][k][4] of fragments
// [16, 16] (see ampere.cuh).
#pragma once

#include "attention/ampere.cuh"
#include "parallel/gpu_vector.cuh"

namespace swiattn::gpu::ampere {

template <int kColumns>
struct Matrix {
  static_assert(kColumns == 64 || kColumns == 128);
  static constexpr uint32_t kRowBytes = kColumns * sizeof(__nv_bfloat16);
  static constexpr int kChunks = kColumns / kVector;  // of a row

  __device__ static uint32_t chunk(uint32_t matrix, int row, int chunk) {
    return matrix + row * kRowBytes + ((chunk ^ (row % 8)) * 16);
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

// sum += left [16 kM, kColumns] right [8 kN, kColumns]^T; left by columns, right by rows.
template <int kColumns, int kM, int kN>
__device__ inline void multiply_rows(float (&sum)[kM][kN][4], uint32_t left, uint32_t right) {
#pragma unroll
  for (int k = 0; k < kColumns; k += 16) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) load_matrices(a[m], Matrix<kColumns>::block(left, 16 * m, k));
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      load_matrices(b, Matrix<kColumns>::block(right, 8 * n, k));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply(sum[m][n], a[m], b[0], b[1]);
        multiply(sum[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// sum += left [16 kM, 16 kK] right [16 kK, 8 kN], the left operand packed; right by columns.
template <int kColumns, int kM, int kN, int kK>
__device__ inline void multiply_packed(float (&sum)[kM][kN][4], const uint32_t (&left)[kM][kK][4],
                                       uint32_t right) {
#pragma unroll
  for (int k = 0; k < kK; ++k) {
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      load_transposed(b, Matrix<kColumns>::block(right, 16 * k, 8 * n));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply(sum[m][n], left[m][k], b[0], b[1]);
        multiply(sum[m][n + 1], left[m][k], b[2], b[3]);
      }
    }
  }
}

// sum += left [kDepth, 16 kM]^T right [kDepth, 8 kN]; left by rows, right by columns.
template <int kDepth, int kLeftColumns, int kRightColumns, int kM, int kN>
__device__ inline void multiply_columns(float (&sum)[kM][kN][4], uint32_t left, uint32_t right) {
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m)
      load_transposed(a[m], Matrix<kLeftColumns>::block(left, k, 16 * m));
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      load_transposed(b, Matrix<kRightColumns>::block(right, k, 8 * n));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply(sum[m][n], a[m], b[0], b[1]);
        multiply(sum[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Sums, rounded, as the left operand of another product.
template <int kM, int kK>
__device__ inline void pack_operand(const float (&sum)[kM][2 * kK][4],
                                    uint32_t (&packed)[kM][kK][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int k = 0; k < kK; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&part)[4] = sum[m][2 * k + i / 2];
        packed[m][k][i] = pack_pair(part[i % 2 * 2], part[i % 2 * 2 + 1]);
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

}  // namespace swiattn::gpu::ampere
