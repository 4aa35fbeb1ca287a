// The fused backend's far backward against the reference backend in float64 on the same rounded
// inputs, and the same mathematics in ATen's bfloat16 library for the size of the error.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "attention/backend.h"

namespace swiattn {
namespace {

struct Case {
  int64_t heads, kv_heads, head_dim, window;
  std::vector<int32_t> starts;
};

std::vector<int32_t> many_documents(int count, int32_t longest) {
  std::vector<int32_t> starts{0};
  for (int i = 0; i < count; ++i) starts.push_back(starts.back() + 1 + (i * 7919) % longest);
  return starts;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int64_t head_dim : {64, 128}) {
    for (const int64_t window : {1, 2, 127, 128, 129, 511, 512, 513}) {
      all.push_back({4, 2, head_dim, window, {0, 512}});
      all.push_back({4, 2, head_dim, window, {0, 1, 131, 387, 1000}});
    }
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {2, 1}, {9, 3}, {8, 2}, {8, 1}}) {
      all.push_back({heads, kv_heads, head_dim, 128, {0, 777}});
      all.push_back({heads, kv_heads, head_dim, 100, many_documents(50, 300)});
    }
  }
  return all;
}

double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const double size = expected.norm().item<double>();
  const double error = (found.to(at::kDouble) - expected).norm().item<double>();
  return size > 0 ? error / size : error;
}

class FusedBackendTest : public testing::TestWithParam<Case> {
 protected:
  FusedBackendTest() : c_(GetParam()) {
    at::manual_seed(3);
    shape_ = {c_.heads, c_.kv_heads, c_.head_dim, c_.window,
              1.0 / std::sqrt(static_cast<double>(c_.head_dim))};
    layout_ = make_document_layout(c_.starts, c_.window, at::kCUDA);
    qkv_ = random({layout_.tokens, (c_.heads + 2 * c_.kv_heads) * c_.head_dim});
    grad_ = random({layout_.tokens, c_.heads, c_.head_dim});
    judge_ = make_attention_backend("reference", at::kCUDA, at::kDouble);
    library_ = make_attention_backend("library", at::kCUDA, at::kBFloat16);
    fused_ = make_attention_backend("fused", at::kCUDA, at::kBFloat16);
  }

  static at::Tensor random(at::IntArrayRef shape) {
    return at::randn(shape, at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16));
  }

  at::Tensor far_backward(const AttentionBackend& backend, const Attended& final,
                          const at::Tensor& rows, at::ScalarType type) const {
    const at::Tensor grad_qkv = at::zeros(qkv_.sizes(), qkv_.options().dtype(type));
    backend.backward(Band::kFar, grad_.to(type), qkv_.to(type), final, rows, layout_, shape_,
                     grad_qkv, GradientMode::kAdd);
    return grad_qkv;
  }

  // Fused is as near to the truth as the library, give or take half.
  void expect_far_backward(const at::Tensor& rows) const {
    const Attended exact = judge_->forward(Band::kFull, qkv_.to(at::kDouble), layout_, shape_);
    const Attended rounded{exact.out.to(at::kBFloat16), exact.logsumexp.to(at::kFloat)};
    const at::Tensor expected = far_backward(*judge_, exact, rows, at::kDouble);
    const at::Tensor library = far_backward(*library_, rounded, rows, at::kBFloat16);
    const at::Tensor found = far_backward(*fused_, rounded, rows, at::kBFloat16);
    const auto compare = [&](const char* what, auto part) {
      const double error = relative_error(part(found), part(expected));
      EXPECT_LE(error, 1.5 * relative_error(part(library), part(expected)) + 1e-9) << what;
      EXPECT_LE(error, 6e-3) << what;
    };
    compare("dq", [&](const at::Tensor& x) { return shape_.queries(x); });
    compare("dk", [&](const at::Tensor& x) { return shape_.keys(x); });
    compare("dv", [&](const at::Tensor& x) { return shape_.values(x); });
  }

  at::Tensor random_rows(double share) const {
    return at::rand({layout_.tokens}, grad_.options().dtype(at::kFloat)) < share;
  }

  Case c_;
  AttentionShape shape_;
  DocumentLayout layout_;
  at::Tensor qkv_, grad_;
  std::unique_ptr<AttentionBackend> judge_, library_, fused_;
};

TEST_P(FusedBackendTest, FarBackwardOfRandomRows) { expect_far_backward(random_rows(0.13)); }
TEST_P(FusedBackendTest, FarBackwardOfAllRows) { expect_far_backward(random_rows(2)); }
TEST_P(FusedBackendTest, FarBackwardOfNoRow) { expect_far_backward(random_rows(-1)); }
TEST_P(FusedBackendTest, FarBackwardOfTheLastRow) {
  const at::Tensor rows = random_rows(-1);
  rows[layout_.tokens - 1] = true;
  expect_far_backward(rows);
}

TEST_P(FusedBackendTest, FarBackwardAddsToWhatIsThere) {
  const Attended exact = judge_->forward(Band::kFull, qkv_.to(at::kDouble), layout_, shape_);
  const Attended rounded{exact.out.to(at::kBFloat16), exact.logsumexp.to(at::kFloat)};
  const at::Tensor rows = random_rows(0.5);
  const at::Tensor alone = far_backward(*fused_, rounded, rows, at::kBFloat16);
  const at::Tensor before = random(qkv_.sizes());
  const at::Tensor both = before.clone();
  fused_->backward(Band::kFar, grad_, qkv_, rounded, rows, layout_, shape_, both,
                   GradientMode::kAdd);
  EXPECT_LE(relative_error(both, (before.to(at::kDouble) + alone.to(at::kDouble))), 4e-3);
}

TEST_P(FusedBackendTest, DeterministicFarBackwardRepeatsItsBits) {
  const bool before = at::globalContext().deterministicAlgorithms();
  at::globalContext().setDeterministicAlgorithms(true, false);
  const at::Tensor rows = random_rows(0.3);
  expect_far_backward(rows);
  const Attended exact = judge_->forward(Band::kFull, qkv_.to(at::kDouble), layout_, shape_);
  const Attended rounded{exact.out.to(at::kBFloat16), exact.logsumexp.to(at::kFloat)};
  const at::Tensor first = far_backward(*fused_, rounded, rows, at::kBFloat16);
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(at::equal(first, far_backward(*fused_, rounded, rows, at::kBFloat16)));
  }
  at::globalContext().setDeterministicAlgorithms(before, false);
}

INSTANTIATE_TEST_SUITE_P(All, FusedBackendTest, testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  return fmt::format("{}_heads_{}_{}_width_{}_window_{}_documents_{}", info.index, c.heads,
                     c.kv_heads, c.head_dim, c.window, c.starts.size() - 1);
});

}  // namespace
}  // namespace swiattn
