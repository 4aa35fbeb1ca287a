// The backends of GPUs in bfloat16 against the reference backend in float64 on the same rounded
// inputs: both head widths, grouped heads, windows at and around the length, packed documents down
// to one token, equal lengths and others.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "attention/backend.h"
#include "attention/switch_attention.h"

namespace swiattn {
namespace {

// The error of bfloat16 outputs and probabilities, relative in the L2 norm; 2.4e-3 to 3.0e-3 is
// what one rounding of each gives.
constexpr double kTolerance = 5e-3;

struct Case {
  std::string backend;  // flash: what `library` falls back to
  int64_t heads, kv_heads, head_dim, window;
  std::vector<int32_t> starts;
};

// Of heads that neither our kernels nor cuDNN's serve.
constexpr std::array<int64_t, 3> kOtherHeadDims = {80, 96, 256};

void add_cases(const std::string& backend, std::vector<Case>& all) {
  for (const int64_t window : {1, 2, 127, 128, 129, 255, 256, 257}) {
    all.push_back({backend, 4, 2, 64, window, {0, 256}});           // one document
    all.push_back({backend, 4, 2, 128, window, {0, 1, 131, 387}});  // packed ones
  }
  for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {2, 1}, {9, 3}, {8, 2}, {8, 1}}) {
    all.push_back({backend, heads, kv_heads, 64, 128, {0, 512, 1024}});  // equally long: dense
    all.push_back({backend, heads, kv_heads, 128, 100, {0, 333, 334, 600}});
  }
  for (const int64_t head_dim : kOtherHeadDims) {
    all.push_back({backend, 4, 2, head_dim, 128, {0, 512, 1024}});
    all.push_back({backend, 4, 2, head_dim, 100, {0, 333, 334, 600}});
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* backend : {"flash", "library", "fused"}) add_cases(backend, all);
  for (const char* backend : {"library", "fused"}) {
    all.push_back({backend, 4, 2, 20, 100, {0, 333, 334, 600}});  // nor FlashAttention-2
  }
  return all;
}

std::unique_ptr<AttentionBackend> make(const std::string& name, const AttentionNotice& notice) {
  if (name == "flash") return make_flash_backend();
  return make_attention_backend(name, at::kCUDA, at::kBFloat16, notice);
}

class GpuBackendTest : public testing::TestWithParam<Case> {
 protected:
  GpuBackendTest() : c_(GetParam()) {
    at::manual_seed(3);
    shape_ = {c_.heads, c_.kv_heads, c_.head_dim, c_.window,
              1.0 / std::sqrt(static_cast<double>(c_.head_dim))};
    layout_ = make_document_layout(c_.starts, c_.window, at::kCUDA);
    qkv_ = random({layout_.tokens, (c_.heads + 2 * c_.kv_heads) * c_.head_dim});
    grad_ = random({layout_.tokens, c_.heads, c_.head_dim});
    judge_ = make_attention_backend("reference", at::kCUDA, at::kDouble);
    backend_ = make(c_.backend, [this](const std::string& sentence) { told_.push_back(sentence); });
  }

  static at::Tensor random(at::IntArrayRef shape) {
    return at::randn(shape, at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16));
  }

  static void expect_close(const at::Tensor& found, const at::Tensor& expected, const char* what) {
    ASSERT_EQ(found.sizes(), expected.sizes()) << what;
    const double size = expected.norm().item<double>();
    const double error = (found.to(at::kDouble) - expected).norm().item<double>();
    // Where nothing is far the expected value is exactly zero, and so must be what was found.
    EXPECT_LE(error, kTolerance * size) << what << " of norm " << size;
  }

  void expect_backward(Band band, const at::Tensor& rows) const {
    const Attended full = judge_->forward(Band::kFull, qkv_.to(at::kDouble), layout_, shape_);
    const at::Tensor expected = at::zeros(qkv_.sizes(), full.out.options());
    judge_->backward(band, grad_.to(at::kDouble), qkv_.to(at::kDouble), full, rows, layout_, shape_,
                     expected, GradientSum::kAdd);
    const Attended rounded{full.out.to(at::kBFloat16), full.logsumexp.to(at::kFloat)};
    const at::Tensor found = at::zeros_like(qkv_);
    backend_->backward(band, grad_, qkv_, rounded, rows, layout_, shape_, found, GradientSum::kAdd);
    expect_close(shape_.queries(found), shape_.queries(expected), "dq");
    expect_close(shape_.keys(found), shape_.keys(expected), "dk");
    expect_close(shape_.values(found), shape_.values(expected), "dv");
  }

  Case c_;
  AttentionShape shape_;
  DocumentLayout layout_;
  at::Tensor qkv_, grad_;
  std::unique_ptr<AttentionBackend> judge_, backend_;
  std::vector<std::string> told_;
};

TEST_P(GpuBackendTest, ForwardOfEveryBand) {
  for (const Band band : {Band::kNear, Band::kFar, Band::kFull}) {
    const Attended expected = judge_->forward(band, qkv_.to(at::kDouble), layout_, shape_);
    const Attended found = backend_->forward(band, qkv_, layout_, shape_);
    expect_close(found.out, expected.out, "out");
    EXPECT_TRUE(at::allclose(found.logsumexp.to(at::kDouble), expected.logsumexp, 1e-5, 1e-5));
  }
}

TEST_P(GpuBackendTest, BackwardOfEveryBandWithTheFinalOutput) {
  for (const Band band : {Band::kNear, Band::kFar, Band::kFull}) expect_backward(band, {});
}

TEST_P(GpuBackendTest, WritingReplacesWhatWasThere) {
  const Attended full = backend_->forward(Band::kFull, qkv_, layout_, shape_);
  for (const Band band : {Band::kNear, Band::kFar, Band::kFull}) {
    const at::Tensor added = at::zeros_like(qkv_);
    const at::Tensor written = at::full_like(qkv_, NAN);
    backend_->backward(band, grad_, qkv_, full, {}, layout_, shape_, added, GradientSum::kAdd);
    backend_->backward(band, grad_, qkv_, full, {}, layout_, shape_, written, GradientSum::kWrite);
    expect_close(written, added.to(at::kDouble), "dqkv");
  }
}

TEST_P(GpuBackendTest, RowsThatAreNotMarkedGiveNoGradient) {
  for (const double share : {0.0, 0.13, 1.0}) {
    const at::Tensor rows = at::rand({layout_.tokens}, grad_.options().dtype(at::kFloat)) < share;
    expect_backward(Band::kNear, rows);
    expect_backward(Band::kFar, rows);
  }
}

TEST_P(GpuBackendTest, SwitchAttentionWithBothBranches) {
  const at::Tensor route = at::rand({layout_.tokens}, grad_.options().dtype(at::kFloat)) < 0.3;
  const at::Tensor exact = qkv_.to(at::kDouble);
  const SwitchSaved expected =
      judge_->switch_forward(exact, route, layout_, shape_, DisagreementReduction::kMean);
  const SwitchSaved found =
      backend_->switch_forward(qkv_, route, layout_, shape_, DisagreementReduction::kMean);
  expect_close(found.out, expected.out, "out");
  // A difference of two rounded outputs, scaled: it is as exact as they are, no more.
  const double size = expected.out.norm().item<double>();
  EXPECT_LE((found.difference.to(at::kDouble) - expected.difference).norm().item<double>(),
            kTolerance * size);
  EXPECT_TRUE(at::allclose(found.disagreement.to(at::kDouble), expected.disagreement, 2e-2, 1e-5));

  const at::Tensor grad_expected = at::zeros(qkv_.sizes(), exact.options());
  const at::Tensor gate_expected = switch_attention_backward(
      *judge_, grad_.to(at::kDouble), {}, exact, expected, layout_, shape_, grad_expected);
  const at::Tensor grad_found = at::full_like(qkv_, NAN);
  const at::Tensor gate_found =
      switch_attention_backward(*backend_, grad_, {}, qkv_, found, layout_, shape_, grad_found);
  expect_close(grad_found, grad_expected, "dqkv");
  // <dL/do, o_full - o_swa>: its error is that of the difference, seen by a random direction.
  EXPECT_LE((gate_found.to(at::kDouble) - gate_expected).norm().item<double>(), kTolerance * size);
}

// Once by cuDNN's backend, once by that of our kernels.
TEST_P(GpuBackendTest, TellsOnceWhatItDoesNotServe) {
  const at::Tensor route = at::rand({layout_.tokens}, grad_.options().dtype(at::kFloat)) < 0.3;
  for (int i = 0; i < 2; ++i) {
    const SwitchSaved saved =
        backend_->switch_forward(qkv_, route, layout_, shape_, DisagreementReduction::kMean);
    const at::Tensor grad_qkv = at::full_like(qkv_, NAN);
    switch_attention_backward(*backend_, grad_, {}, qkv_, saved, layout_, shape_, grad_qkv);
  }
  const bool served = c_.head_dim == 64 || c_.head_dim == 128;
  if (c_.backend == "flash" || served) {
    const int major = at::cuda::getCurrentDeviceProperties()->major;
    const bool packed = major == 9 || major == 10;  // which cuDNN serves there alone
    EXPECT_LE(told_.size(), c_.backend == "flash" || packed ? 0U : 1U);
    return;
  }
  EXPECT_EQ(told_.size(), c_.backend == "fused" ? 2U : 1U);
  for (const std::string& sentence : told_) {
    EXPECT_NE(sentence.find(std::to_string(c_.head_dim)), std::string::npos) << sentence;
  }
}

INSTANTIATE_TEST_SUITE_P(All, GpuBackendTest, testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  return fmt::format("{}_{}_heads_{}_{}_width_{}_window_{}_documents_{}", info.index, c.backend,
                     c.heads, c.kv_heads, c.head_dim, c.window, c.starts.size() - 1);
});

}  // namespace
}  // namespace swiattn
