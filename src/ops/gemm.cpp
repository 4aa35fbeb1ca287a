#include "ops/gemm.h"

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/check.h"
#include "parallel/device.h"

namespace swiattn::fused {
namespace {

constexpr int kMostKernels = 8;          // that cuBLAS is asked for
constexpr size_t kWorkspace = 32 << 20;  // bytes that a kernel may take
constexpr size_t kMostProducts = 1024;   // that are remembered

void check_cublas(cublasStatus_t status) {
  SWIATTN_CHECK(status == CUBLAS_STATUS_SUCCESS, "cuBLAS failed: {}",
                cublasLtGetStatusString(status));
}

// A matrix in memory as cuBLAS sees it, column after column: one whose rows are contiguous is its
// own transpose, another one is to be transposed.
struct Seen {
  bool transposed;
  int64_t rows, columns, stride;

  explicit Seen(const at::Tensor& matrix) : transposed(matrix.stride(1) != 1) {
    const int contiguous = transposed ? 0 : 1;
    rows = matrix.size(contiguous);
    columns = matrix.size(1 - contiguous);
    stride = std::max(matrix.stride(1 - contiguous), rows);
  }
  cublasOperation_t operation() const { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; }
};

// Whether rows or columns lie one behind the other without overlapping.
bool lies_in_lines(const at::Tensor& matrix) {
  if (matrix.dim() != 2 || (matrix.stride(0) != 1 && matrix.stride(1) != 1)) return false;
  const int contiguous = matrix.stride(1) == 1 ? 1 : 0, other = 1 - contiguous;
  return matrix.size(other) == 1 || matrix.stride(other) >= matrix.size(contiguous);
}

// Of c = a b + addend, where the addend may be c itself.
struct Matrices {
  const at::Tensor &a, &b, &addend, &c;
};

void check_operands(const Matrices& matrices) {
  const auto& [a, b, addend, c] = matrices;
  SWIATTN_CHECK(lies_in_lines(a) && lies_in_lines(b) && lies_in_lines(c) && c.stride(1) == 1 &&
                    a.size(1) == b.size(0) && c.size(0) == a.size(0) && c.size(1) == b.size(1) &&
                    c.numel() > 0 && a.size(1) > 0,
                "a product's matrices fit and have contiguous lines");
  SWIATTN_CHECK(a.scalar_type() == at::kBFloat16 && b.scalar_type() == at::kBFloat16 &&
                    (c.scalar_type() == at::kBFloat16 || c.scalar_type() == at::kFloat),
                "a product of bfloat16 goes to bfloat16 or float32");
  SWIATTN_CHECK(addend.scalar_type() == c.scalar_type() && addend.sizes() == c.sizes() &&
                    addend.strides() == c.strides(),
                "what is added to a product lies as the result does");
}

cublasLtMatrixLayoutOpaque_t layout(const Seen& matrix, cudaDataType_t type) {
  cublasLtMatrixLayoutOpaque_t made;
  check_cublas(cublasLtMatrixLayoutInit(&made, type, static_cast<uint64_t>(matrix.rows),
                                        static_cast<uint64_t>(matrix.columns), matrix.stride));
  return made;
}

cudaDataType_t cuda_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat ? CUDA_R_32F : CUDA_R_16BF;
}

// The most bytes, up to 256, that all begin at a multiple of.
uint32_t alignment(const Matrices& matrices) {
  uintptr_t bits = 256U;
  for (const at::Tensor* const matrix : {&matrices.a, &matrices.b, &matrices.addend, &matrices.c}) {
    bits |= reinterpret_cast<uintptr_t>(matrix->const_data_ptr());
  }
  return static_cast<uint32_t>(bits & -bits);
}

using Found = cublasLtMatmulHeuristicResult_t;

template <class T>
T attribute(const Found& kernel, cublasLtMatmulAlgoConfigAttributes_t which) {
  T value = 0;
  size_t written = 0;
  check_cublas(
      cublasLtMatmulAlgoConfigGetAttribute(&kernel.algo, which, &value, sizeof value, &written));
  return value;
}

// What a block computes at a time, of the result as cuBLAS sees it.
struct Tile {
  cublasLtMatmulTile_t id;
  GemmTile size;
};
constexpr Tile kSquare = {CUBLASLT_MATMUL_TILE_192x192, {192, 192}};
constexpr Tile kLong = {CUBLASLT_MATMUL_TILE_320x128, {320, 128}};
// What is taken instead, in this order, where cuBLAS proposes it; the first two only instead of
// squares of bfloat16.
constexpr std::array kSmaller = {
    Tile{CUBLASLT_MATMUL_TILE_128x160, {128, 160}}, Tile{CUBLASLT_MATMUL_TILE_176x128, {176, 128}},
    Tile{CUBLASLT_MATMUL_TILE_256x128, {256, 128}}, Tile{CUBLASLT_MATMUL_TILE_128x256, {128, 256}}};
constexpr int kNarrow = 2;
constexpr double kMostPlaces = 1.03;  // of smaller tiles, over those of large ones

bool computes(const Found& kernel, const Tile& tile) {
  return attribute<uint32_t>(kernel, CUBLASLT_ALGO_CONFIG_TILE_ID) == tile.id &&
         attribute<int32_t>(kernel, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) == 1;
}

int64_t divide_up(int64_t x, int64_t y) { return (x + y - 1) / y; }

// How many results the multiprocessors have the time for, whole tiles each and all as long as the
// one that computes most.
double places(const Seen& result, const Tile& tile) {
  const auto [rows, columns] = tile.size;
  const int64_t tiles = divide_up(result.rows, rows) * divide_up(result.columns, columns);
  const int64_t blocks = at::cuda::getCurrentDeviceProperties()->multiProcessorCount;
  return static_cast<double>(divide_up(tiles, blocks) * blocks * rows * columns);
}

// One product: shapes, strides and types, and the kernel for them.
class Gemm {
 public:
  explicit Gemm(const Matrices& matrices)
      : first_(layout(Seen(matrices.b), CUDA_R_16BF)),
        second_(layout(Seen(matrices.a), CUDA_R_16BF)),
        result_(layout(Seen(matrices.c), cuda_type(matrices.c))) {
    check_cublas(cublasLtMatmulDescInit(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(CUBLASLT_MATMUL_DESC_TRANSA, Seen(matrices.b).operation());
    set(CUBLASLT_MATMUL_DESC_TRANSB, Seen(matrices.a).operation());
    choose_kernel(alignment(matrices), matrices.c);
  }

  void run(const Matrices& matrices, GradientSum sum) {
    const auto& [a, b, addend, c] = matrices;
    const float one = 1.0F;
    const float beta = sum == GradientSum::kAdd ? 1.0F : 0.0F;
    const at::Tensor workspace =
        at::empty({static_cast<int64_t>(kernel_.workspaceSize)}, c.options().dtype(at::kByte));
    check_cublas(cublasLtMatmul(at::cuda::getCurrentCUDABlasLtHandle(), &product_, &one,
                                b.const_data_ptr(), &first_, a.const_data_ptr(), &second_, &beta,
                                addend.const_data_ptr(), &result_, c.mutable_data_ptr(), &result_,
                                &kernel_.algo, workspace.mutable_data_ptr(), kernel_.workspaceSize,
                                at::cuda::getCurrentCUDAStream()));
  }

  GemmTile tile() const {
    for (const Tile& tile : kSmaller) {
      if (computes(kernel_, tile)) return tile.size;
    }
    return {};
  }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check_cublas(cublasLtMatmulDescSetAttribute(&product_, attribute, &value, sizeof value));
  }

  void choose_kernel(uint32_t alignment, const at::Tensor& c) {
    std::array<Found, kMostKernels> proposed;
    const auto end = proposed.begin() + ask(alignment, proposed);
    SWIATTN_CHECK(end != proposed.begin(), "cuBLAS has no kernel for a product");
    kernel_ = proposed.front();
    SWIATTN_CHECK(kernel_.state == CUBLAS_STATUS_SUCCESS, "cuBLAS's first kernel serves");
    const bool square = computes(kernel_, kSquare);
    if (!is_hopper(c.device()) || (!square && !computes(kernel_, kLong))) return;
    const Seen result(c);
    const double most_places = kMostPlaces * places(result, square ? kSquare : kLong);
    const bool narrow_too = square && c.scalar_type() == at::kBFloat16;
    for (auto tile = kSmaller.begin() + (narrow_too ? 0 : kNarrow); tile != kSmaller.end();
         ++tile) {
      if (places(result, *tile) > most_places) continue;
      const auto found = std::find_if(proposed.begin(), end, [&](const Found& one) {
        return one.state == CUBLAS_STATUS_SUCCESS && computes(one, *tile);
      });
      if (found == end) continue;
      kernel_ = *found;
      return;
    }
  }

  // Fills in what cuBLAS proposes, best first; returns how many.
  int ask(uint32_t alignment, std::array<Found, kMostKernels>& proposed) {
    cublasLtMatmulPreferenceOpaque_t preference;
    check_cublas(cublasLtMatmulPreferenceInit(&preference));
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check_cublas(
          cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    // Parts of a sum are added in float32 and in one order.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment);
    int count = 0;
    check_cublas(cublasLtMatmulAlgoGetHeuristic(at::cuda::getCurrentCUDABlasLtHandle(), &product_,
                                                &first_, &second_, &result_, &result_, &preference,
                                                kMostKernels, proposed.data(), &count));
    return count;
  }

  cublasLtMatmulDescOpaque_t product_ = {};
  // cuBLAS computes the transpose: c^T = b^T a^T.
  cublasLtMatrixLayoutOpaque_t first_, second_, result_;
  Found kernel_;
};

using Key = std::array<int64_t, 11>;

Key key(const Matrices& matrices) {
  const auto& [a, b, addend, c] = matrices;
  const Seen seen_a(a), seen_b(b), seen_c(c);
  return {c.get_device(),    a.size(0),     b.size(1),          a.size(1),
          seen_a.transposed, seen_a.stride, seen_b.transposed,  seen_b.stride,
          seen_c.stride,     cuda_type(c),  alignment(matrices)};
}

Gemm& find(const Matrices& matrices) {
  static thread_local std::map<Key, Gemm> gemms;
  check_operands(matrices);
  if (gemms.size() == kMostProducts) gemms.clear();
  return gemms.try_emplace(key(matrices), matrices).first->second;
}

void run(const Matrices& matrices, GradientSum sum) {
  const c10::cuda::CUDAGuard on_device(matrices.c.device());
  find(matrices).run(matrices, sum);
}

}  // namespace

void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c, GradientSum sum) {
  run({a, b, c, c}, sum);
}

void gemm(const at::Tensor& a, const at::Tensor& b, const at::Tensor& addend, const at::Tensor& c) {
  run({a, b, addend, c}, GradientSum::kAdd);
}

GemmTile gemm_tile(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c) {
  const c10::cuda::CUDAGuard on_device(c.device());
  return find({a, b, c, c}).tile();
}

}  // namespace swiattn::fused
