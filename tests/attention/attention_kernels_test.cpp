// Attention's memory-bound kernels against float64 ATen on the same rounded operands. What a kernel
// must not read is NaN here, and so is whatever it has to write.
#include "attention/attention_kernels.h"

#include <ATen/ATen.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "base/cuda_check.h"
#include "parallel/gpu_stream.h"

namespace swiattn {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

at::TensorOptions options(at::ScalarType type) {
  return at::TensorOptions().device(at::kCUDA).dtype(type);
}
at::Tensor unwritten(at::IntArrayRef shape, at::ScalarType type) {
  return at::full(shape, kNan, options(type));
}

struct Operands {
  at::Tensor near, far;                      // [T, Hq, D]
  at::Tensor near_logsumexp, far_logsumexp;  // [Hq, T]
  at::Tensor route, position;                // [T]
  int64_t window;

  Operands tokens(int64_t begin, int64_t count) const {
    return {near.narrow(0, begin, count),
            far.narrow(0, begin, count),
            near_logsumexp.narrow(1, begin, count),
            far_logsumexp.narrow(1, begin, count),
            route.narrow(0, begin, count),
            position.narrow(0, begin, count),
            window};
  }
  Operands clone() const {
    return {
        near.clone(),     far.clone(), near_logsumexp.clone(), far_logsumexp.clone(), route.clone(),
        position.clone(), window};
  }
};

struct Merged {
  at::Tensor out, difference;  // [T, Hq, D]
  at::Tensor logsumexp;        // [Hq, T]
  at::Tensor disagreement;     // [T], the sum
};

void merge(const Operands& in, const Merged& to, float scale) {
  gpu::merge_branches(
      {in.near.const_data_ptr(), in.far.const_data_ptr(), in.near_logsumexp.const_data_ptr<float>(),
       in.far_logsumexp.const_data_ptr<float>(), in.route.const_data_ptr<bool>(),
       in.position.const_data_ptr<int64_t>(), to.out.mutable_data_ptr(),
       to.difference.mutable_data_ptr(), to.logsumexp.mutable_data_ptr<float>(),
       to.disagreement.mutable_data_ptr<float>(), in.near.size(0), in.near.size(1), in.near.size(2),
       in.window, scale},
      current_stream());
}

Merged merge_elsewhere(const Operands& in, float scale) {
  const Merged to{
      unwritten(in.near.sizes(), at::kBFloat16), unwritten(in.near.sizes(), at::kBFloat16),
      unwritten(in.near_logsumexp.sizes(), at::kFloat), unwritten(in.route.sizes(), at::kFloat)};
  merge(in, to, scale);
  return to;
}

Merged merge_in_place(const Operands& in, float scale) {
  const Merged to{in.near, in.far, in.near_logsumexp, unwritten(in.route.sizes(), at::kFloat)};
  merge(in, to, scale);
  return to;
}

// [Hq, T] bool: rows and heads with a far key.
at::Tensor has_far(const Operands& in) {
  return (in.position >= in.window).unsqueeze(0).logical_and(at::isfinite(in.far_logsumexp));
}

Merged judge(const Operands& in) {
  const at::Tensor some = has_far(in);
  const at::Tensor some_rows = some.t().unsqueeze(-1);  // [T, Hq, 1]
  const at::Tensor near_logsumexp = in.near_logsumexp.to(at::kDouble);
  const at::Tensor far_logsumexp = in.far_logsumexp.to(at::kDouble).masked_fill(~some, -kInfinity);
  const at::Tensor near = in.near.to(at::kDouble);
  const at::Tensor far = in.far.to(at::kDouble).masked_fill(~some_rows, 0.0);

  Merged to;
  const at::Tensor full_logsumexp = at::logaddexp(near_logsumexp, far_logsumexp);
  to.logsumexp = at::where(in.route, full_logsumexp, near_logsumexp);
  to.difference = (far_logsumexp - full_logsumexp).exp().t().unsqueeze(-1) * (far - near);
  to.out = at::where(in.route.view({-1, 1, 1}), near + to.difference, near);
  to.disagreement = to.difference.square().sum({1, 2});
  return to;
}

// |found - expected| <= relative |expected| + absolute, everywhere; NaN fails.
void expect_close(const at::Tensor& found, const at::Tensor& expected, double relative,
                  double absolute, const char* what) {
  ASSERT_EQ(found.sizes(), expected.sizes()) << what;
  const at::Tensor error = (found.to(at::kDouble) - expected).abs();
  EXPECT_TRUE(at::le(error, relative * expected.abs() + absolute).all().item<bool>())
      << what << ": largest error " << error.max().item<double>();
}

// One rounding to bfloat16 is 2^-8 = 3.91e-3 of the value at most; the rest is float32's.
void expect_merged(const Merged& found, const Merged& expected, double scale) {
  expect_close(found.logsumexp, expected.logsumexp, 1e-6, 1e-6, "log-sum-exp");
  expect_close(found.difference, expected.difference, 3.93e-3, 1e-30, "difference");
  expect_close(found.out, expected.out, 3.93e-3, 1e-5, "out");
  expect_close(found.disagreement, scale * expected.disagreement, 2e-5, 1e-30, "disagreement");
}

void gate_gradient(const at::Tensor& grad_out, const at::Tensor& difference,
                   const at::Tensor& position, int64_t window, const at::Tensor& to,
                   const at::Tensor& both = {}) {
  gpu::gate_gradient(
      {grad_out.const_data_ptr(), difference.const_data_ptr(), position.const_data_ptr<int64_t>(),
       to.mutable_data_ptr<float>(), grad_out.size(0), grad_out.size(1), grad_out.size(2), window,
       both.defined() ? both.const_data_ptr<bool>() : nullptr},
      current_stream());
}

// A float32 sum of n products in any order is off by less than n 2^-24 of the sum of their sizes;
// ours adds some 70 at most one after another.
void expect_gate_gradient(const at::Tensor& found, const at::Tensor& grad_out,
                          const at::Tensor& difference) {
  const at::Tensor products = grad_out.to(at::kDouble) * difference.to(at::kDouble);
  const at::Tensor error = (found.to(at::kDouble) - products.sum({1, 2})).abs();
  EXPECT_TRUE(at::le(error, 5e-6 * products.abs().sum({1, 2})).all().item<bool>())
      << "largest error " << error.max().item<double>();
}

struct Case {
  int64_t tokens, heads, head_dim, window;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int64_t tokens : {1, 5, 127, 128, 1000, 4096 + 3}) {
    for (const int64_t heads : {1, 2, 9, 16}) {
      for (const int64_t head_dim : {64, 128}) {
        for (const int64_t window : {int64_t{1}, int64_t{128}, tokens}) {
          all.push_back({tokens, heads, head_dim, window});
        }
      }
    }
  }
  all.insert(all.end(), {{130, 3, 8, 1}, {131, 5, 40, 7}, {65, 7, 72, 2}, {33, 128, 256, 3}});
  return all;
}

class AttentionKernelsTest : public testing::TestWithParam<Case> {
 protected:
  AttentionKernelsTest() : c_(GetParam()) { at::manual_seed(7); }

  // Three documents: an eighth of the tokens, one token, the rest.
  at::Tensor positions() const {
    const int64_t second = c_.tokens / 8;
    const at::Tensor token = at::arange(c_.tokens, options(at::kLong));
    const at::Tensor rest = at::where(token == second, token - second, token - second - 1);
    return at::where(token < second, token, rest);
  }

  // Log-sum-exps that make the far keys' share anything from 0 to 1, some rows and heads without
  // far keys though their position has some, and NaN in whatever belongs to no far key.
  Operands random(double ratio) const {
    const std::vector<int64_t> shape{c_.tokens, c_.heads, c_.head_dim};
    const at::Tensor spread = at::randn({c_.heads, c_.tokens}, options(at::kFloat));
    Operands in{at::randn(shape, options(at::kBFloat16)),
                at::randn(shape, options(at::kBFloat16)),
                at::randn({c_.heads, c_.tokens}, options(at::kFloat)) * 3,
                spread.pow(3) * 4,
                at::rand({c_.tokens}, options(at::kFloat)) < ratio,
                positions(),
                c_.window};
    const at::Tensor draw = at::rand({c_.heads, c_.tokens}, options(at::kFloat));
    in.far_logsumexp.masked_fill_(draw < 0.04, -kInfinity).masked_fill_(draw < 0.01, kInfinity);
    in.far.masked_fill_((~has_far(in)).t().unsqueeze(-1), kNan);
    in.far_logsumexp.masked_fill_((in.position < c_.window).unsqueeze(0), kNan);
    return in;
  }

  Case c_;
};

TEST_P(AttentionKernelsTest, MergesBothBranches) {
  for (const double ratio : {0.0, 0.13, 1.0}) {
    for (const bool mean : {false, true}) {
      const double scale = mean ? 1.0 / static_cast<double>(c_.heads * c_.head_dim) : 1.0;
      const Operands in = random(ratio);
      const Merged elsewhere = merge_elsewhere(in, static_cast<float>(scale));
      expect_merged(elsewhere, judge(in), scale);
      const at::Tensor nothing_far = (~has_far(in)).t().unsqueeze(-1);
      EXPECT_EQ(at::count_nonzero(elsewhere.difference * nothing_far).item<int64_t>(), 0);

      const Merged in_place = merge_in_place(in.clone(), static_cast<float>(scale));
      EXPECT_TRUE(at::equal(in_place.out, elsewhere.out));
      EXPECT_TRUE(at::equal(in_place.difference, elsewhere.difference));
      EXPECT_TRUE(at::equal(in_place.logsumexp, elsewhere.logsumexp));
      EXPECT_TRUE(at::equal(in_place.disagreement, elsewhere.disagreement));
    }
  }
}

TEST_P(AttentionKernelsTest, RowsOfTheWindowKeepTheirNearOutput) {
  const Operands in = random(0.5);
  const Merged merged = merge_elsewhere(in, 1.0F);
  const at::Tensor window = (~in.route).nonzero().flatten();
  EXPECT_TRUE(at::equal(merged.out.index_select(0, window), in.near.index_select(0, window)));
  EXPECT_TRUE(at::equal(merged.logsumexp.index_select(1, window),
                        in.near_logsumexp.index_select(1, window)));
}

TEST_P(AttentionKernelsTest, GateGradient) {
  const std::vector<int64_t> shape{c_.tokens, c_.heads, c_.head_dim};
  const at::Tensor position = positions();
  const at::Tensor skipped = (position < c_.window).view({-1, 1, 1});
  const at::Tensor grad_out = at::randn(shape, options(at::kBFloat16)).masked_fill_(skipped, kNan);
  const at::Tensor difference =
      at::randn(shape, options(at::kBFloat16)).masked_fill_(skipped, kNan);
  const at::Tensor found = unwritten({c_.tokens}, at::kFloat);
  gate_gradient(grad_out, difference, position, c_.window, found);
  expect_gate_gradient(found, grad_out.masked_fill(skipped, 0), difference.masked_fill(skipped, 0));
}

TEST_P(AttentionKernelsTest, GateGradientOfTheTokensWithADifference) {
  const std::vector<int64_t> shape{c_.tokens, c_.heads, c_.head_dim};
  const at::Tensor position = positions();
  for (const double share : {-1.0, 0.2, 2.0}) {
    const at::Tensor both = at::rand({c_.tokens}, options(at::kFloat)) < share;
    const at::Tensor skipped = (position < c_.window).logical_or(~both).view({-1, 1, 1});
    const at::Tensor grad_out = at::randn(shape, options(at::kBFloat16));
    const at::Tensor difference =
        at::randn(shape, options(at::kBFloat16)).masked_fill_(skipped, kNan);
    const at::Tensor found = unwritten({c_.tokens}, at::kFloat);
    gate_gradient(grad_out, difference, position, c_.window, found, both);
    expect_gate_gradient(found, grad_out, difference.masked_fill(skipped, 0));
  }
}

INSTANTIATE_TEST_SUITE_P(All, AttentionKernelsTest, testing::ValuesIn(cases()),
                         [](const auto& info) {
                           const Case& c = info.param;
                           return fmt::format("{}_tokens_{}_heads_{}_width_{}_window_{}",
                                              info.index, c.tokens, c.heads, c.head_dim, c.window);
                         });

// One document; all rows but the first `window` have far keys.
Operands long_document(int64_t tokens, int64_t heads, int64_t head_dim, int64_t window) {
  const auto random = [&] {
    return at::empty({tokens, heads, head_dim}, options(at::kBFloat16)).normal_();
  };
  return {random(),
          random(),
          at::randn({heads, tokens}, options(at::kFloat)),
          at::randn({heads, tokens}, options(at::kFloat)),
          at::rand({tokens}, options(at::kFloat)) < 0.13,
          at::arange(tokens, options(at::kLong)),
          window};
}

TEST(LargeAttentionKernelsTest, NoTokensAreNoLaunch) {
  const Operands in = long_document(0, 2, 64, 1);
  EXPECT_NO_THROW(merge_elsewhere(in, 1.0F));
  EXPECT_NO_THROW(gate_gradient(in.near, in.far, in.position, 1, in.near_logsumexp));
}

TEST(LargeAttentionKernelsTest, ElementsBeyondTwoToThe31) {
  constexpr int64_t kHeads = 16, kHeadDim = 128, kTail = 100;
  constexpr int64_t kTokens = (int64_t{1} << 31) / (kHeads * kHeadDim) + kTail / 2;
  size_t free = 0, total = 0;
  SWIATTN_CHECK_CUDA(cudaMemGetInfo(&free, &total));
  if (total < size_t{24} << 30) GTEST_SKIP() << "needs a GPU of 24 GiB";
  const Operands in = long_document(kTokens, kHeads, kHeadDim, 1);
  const Operands tail = in.tokens(kTokens - kTail, kTail).clone();
  const Merged merged = merge_in_place(in, 1.0F);
  const auto rows = [&](const at::Tensor& x) { return x.narrow(0, kTokens - kTail, kTail); };
  const auto columns = [&](const at::Tensor& x) { return x.narrow(1, kTokens - kTail, kTail); };
  expect_merged({rows(merged.out), rows(merged.difference), columns(merged.logsumexp),
                 rows(merged.disagreement)},
                judge(tail), 1.0);

  const at::Tensor found = unwritten({kTokens}, at::kFloat);
  gate_gradient(merged.out, merged.difference, in.position, 1, found);
  expect_gate_gradient(rows(found), rows(merged.out), rows(merged.difference));
}

}  // namespace
}  // namespace swiattn
