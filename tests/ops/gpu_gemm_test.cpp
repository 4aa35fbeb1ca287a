// Products on a GPU against float64.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "ops/gemm.h"

namespace swiattn {
namespace {

struct Shape {
  int64_t m, n, k;
};

// As gemm() may get an operand: contiguous, transposed, or a part of a wider matrix.
enum class Lies { kWhole, kTransposed, kPart };

class GpuGemmTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "needs a GPU";
    at::manual_seed(1);
  }

  static at::Tensor random(int64_t rows, int64_t columns, Lies lies) {
    const auto options = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);
    if (lies == Lies::kTransposed) return at::randn({columns, rows}, options).t();
    if (lies == Lies::kWhole) return at::randn({rows, columns}, options);
    return at::randn({rows + 1, columns + 9}, options).narrow(0, 1, rows).narrow(1, 3, columns);
  }

  static at::Tensor exact(const at::Tensor& a, const at::Tensor& b) {
    return at::mm(a.to(at::kDouble), b.to(at::kDouble));
  }

  // Products of bfloat16 are exact in float32. Tensor cores add some 16 of them at a time and cut
  // off what is below the sum's last place; a bfloat16 result is rounded to 8 bits.
  static double bound(at::ScalarType type, int64_t terms) {
    return std::exp2(-23) * static_cast<double>(terms / 16 + 2) +
           (type == at::kBFloat16 ? std::exp2(-8) : 0.0);
  }

  static double relative_error(const at::Tensor& found, const at::Tensor& expected) {
    return ((found.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
  }
};

TEST_F(GpuGemmTest, IsTheProduct) {
  for (const Shape& shape : std::vector<Shape>{
           {1, 1, 1}, {1, 8, 64}, {37, 1, 24}, {129, 72, 40}, {640, 1000, 257}, {515, 96, 2048}}) {
    for (const Lies lies_a : {Lies::kWhole, Lies::kTransposed, Lies::kPart}) {
      for (const Lies lies_b : {Lies::kWhole, Lies::kTransposed, Lies::kPart}) {
        const at::Tensor a = random(shape.m, shape.k, lies_a);
        const at::Tensor b = random(shape.k, shape.n, lies_b);
        const at::Tensor expected = exact(a, b);
        SCOPED_TRACE(fmt::format("{} x {} x {}, a {}, b {}", shape.m, shape.n, shape.k,
                                 static_cast<int>(lies_a), static_cast<int>(lies_b)));
        for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
          const at::Tensor c = at::full({shape.m, shape.n}, NAN, a.options().dtype(type));
          fused::gemm(a, b, c, GradientSum::kWrite);
          EXPECT_LE(relative_error(c, expected), bound(type, shape.k));
          const at::Tensor addend = at::randn_like(c);
          const at::Tensor kept = addend.clone();
          fused::gemm(a, b, addend, c);
          EXPECT_LE(relative_error(c, expected + addend.to(at::kDouble)), bound(type, shape.k));
          EXPECT_TRUE(at::equal(addend, kept));
        }
        const at::Tensor before = at::randn({shape.m, shape.n}, a.options().dtype(at::kFloat));
        const at::Tensor sum = before.clone();
        fused::gemm(a, b, sum, GradientSum::kAdd);
        EXPECT_LE(relative_error(sum, expected + before), bound(at::kFloat, shape.k));
        const at::Tensor part =
            at::zeros({shape.m, shape.n + 24}, a.options()).narrow(1, 8, shape.n);
        for (int i = 0; i < 2; ++i) fused::gemm(a, b, part, GradientSum::kAdd);
        EXPECT_LE(relative_error(part, 2 * expected), 2 * bound(at::kBFloat16, shape.k));
      }
    }
  }
}

// The shapes of a layer: forward, dL/dx and dL/dW, of short sums and of long ones.
TEST_F(GpuGemmTest, IsTheProductOfALayer) {
  for (const Shape& layer : std::vector<Shape>{{8192, 2816, 1024}, {1000, 1160, 5632}}) {
    const at::Tensor x = random(layer.m, layer.k, Lies::kWhole);
    const at::Tensor weight = random(layer.n, layer.k, Lies::kWhole);
    const at::Tensor grad = random(layer.m, layer.n, Lies::kWhole);
    const auto check = [](const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
      const at::Tensor c = at::full({a.size(0), b.size(1)}, NAN, a.options().dtype(type));
      fused::gemm(a, b, c, GradientSum::kWrite);
      EXPECT_LE(relative_error(c, exact(a, b)), bound(type, a.size(1)));
      const at::Tensor again = at::full_like(c, NAN);
      fused::gemm(a, b, again, GradientSum::kWrite);
      EXPECT_TRUE(at::equal(again, c));
    };
    check(x, weight.t(), at::kBFloat16);
    check(grad, weight, at::kBFloat16);
    check(grad.t(), x, at::kFloat);
  }
}

// Products of the paper's shape for which cuBLAS's first kernel on an H100 has large tiles.
TEST_F(GpuGemmTest, TakesSmallerTilesWhereTheyFillTheGpu) {
  const cudaDeviceProp* const device = at::cuda::getCurrentDeviceProperties();
  if (device->major != 9 || device->multiProcessorCount != 132) GTEST_SKIP() << "not an H100 SXM";
  const auto tile = [](const Shape& shape, Lies lies_a, Lies lies_b, at::ScalarType type) {
    const at::Tensor a = random(shape.m, shape.k, lies_a), b = random(shape.k, shape.n, lies_b);
    const at::Tensor c = at::empty({shape.m, shape.n}, a.options().dtype(type));
    const fused::GemmTile found = fused::gemm_tile(a, b, c);
    return std::pair(found.rows, found.columns);
  };
  const auto forward = [&](const Shape& shape) {
    return tile(shape, Lies::kWhole, Lies::kTransposed, at::kBFloat16);
  };
  EXPECT_EQ(forward({32768, 4096, 2048}), std::pair(128L, 160L));   // q, k and v; first: 192 x 192
  EXPECT_EQ(forward({16384, 11264, 2048}), std::pair(176L, 128L));  // gate and up, likewise
  EXPECT_EQ(forward({16384, 4096, 2048}), std::pair(256L, 128L));   // q, k and v; first: 320 x 128
  for (const auto& narrow : {std::pair(128L, 160L), std::pair(176L, 128L)}) {  // for bfloat16 alone
    EXPECT_NE(tile({32768, 4096, 2048}, Lies::kWhole, Lies::kTransposed, at::kFloat), narrow);
  }
  // The head's logits and dL/dW; first: 192 x 192.
  EXPECT_EQ(tile({2048, 32000, 2048}, Lies::kWhole, Lies::kTransposed, at::kFloat),
            std::pair(256L, 128L));
  EXPECT_EQ(tile({32000, 2048, 8192}, Lies::kTransposed, Lies::kWhole, at::kFloat),
            std::pair(256L, 128L));
}

// What is added decides about the kernel, too: by where it begins.
TEST_F(GpuGemmTest, AddsWhatLiesInAWiderMatrix) {
  const Shape shape{129, 72, 40};
  const at::Tensor a = random(shape.m, shape.k, Lies::kWhole);
  const at::Tensor b = random(shape.k, shape.n, Lies::kWhole);
  const auto part = [&](int64_t first) {
    return at::randn({shape.m, shape.n + 16}, a.options()).narrow(1, first, shape.n);
  };
  for (const int64_t first : {0, 1, 8}) {
    const at::Tensor addend = part(first), c = part(0);
    fused::gemm(a, b, addend, c);
    EXPECT_LE(relative_error(c, exact(a, b) + addend.to(at::kDouble)),
              bound(at::kBFloat16, shape.k));
  }
}

TEST_F(GpuGemmTest, RefusesWhatItWouldMisread) {
  const at::Tensor a = random(64, 32, Lies::kWhole), b = random(32, 64, Lies::kWhole);
  const at::Tensor c = at::empty({64, 64}, a.options());
  const at::Tensor expanded = random(1, 32, Lies::kWhole).expand({64, 32});
  const at::Tensor scattered = random(64, 64, Lies::kWhole).slice(1, 0, 64, 2);
  for (const at::Tensor& bad : {expanded, scattered, a.to(at::kFloat), a.narrow(1, 0, 16)}) {
    EXPECT_ANY_THROW(fused::gemm(bad, b, c, GradientSum::kWrite));
  }
  EXPECT_ANY_THROW(fused::gemm(a, b, c.t(), GradientSum::kWrite));
  for (const at::Tensor& bad : {c.t(), c.to(at::kFloat), c.narrow(1, 0, 32)}) {
    EXPECT_ANY_THROW(fused::gemm(a, b, bad, c));
  }
  EXPECT_ANY_THROW(fused::gemm(a, b, c.to(at::kDouble), GradientSum::kWrite));
}

}  // namespace
}  // namespace swiattn
