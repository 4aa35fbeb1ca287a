// Every backend against plain softmax attention in float64 with autograd: bands, windows at and
// around the length, documents of one token, grouped heads, rows left out.
#include "attention/backend.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "attention/switch_attention.h"
#include "base/error.h"

namespace swiattn {
namespace {

struct Case {
  std::string backend;
  int64_t heads, kv_heads, head_dim, window;
  std::vector<int32_t> starts;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string backend : {"reference", "library"}) {
    for (const int64_t window : {1, 2, 36, 37, 38, 300}) {
      all.push_back({backend, 4, 2, 6, window, {0, 37}});
    }
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {3, 1}, {8, 2}, {6, 6}}) {
      all.push_back({backend, heads, kv_heads, 4, 5, {0, 1, 2, 20, 21, 60}});
    }
    // More rows and keys than one block of the blockwise backend.
    all.push_back({backend, 2, 1, 4, 128, {0, 129, 430}});
    all.push_back({backend, 2, 1, 4, 129, {0, 300}});
  }
  return all;
}

at::Tensor mask_of(Band band, const Case& c) {
  const int64_t total = c.starts.back();
  at::Tensor mask = at::zeros({total, total}, at::kBool);
  auto sees = mask.accessor<bool, 2>();
  for (size_t d = 0; d + 1 < c.starts.size(); ++d) {
    for (int64_t i = c.starts[d]; i < c.starts[d + 1]; ++i) {
      for (int64_t j = c.starts[d]; j <= i; ++j) {
        const bool near = i - j < c.window;
        sees[i][j] = band == Band::kFull || (band == Band::kNear) == near;
      }
    }
  }
  return mask;
}

class BackendTest : public testing::TestWithParam<Case> {
 protected:
  BackendTest() : c_(GetParam()) {
    at::manual_seed(7);
    shape_ = {c_.heads, c_.kv_heads, c_.head_dim, c_.window,
              1.0 / std::sqrt(static_cast<double>(c_.head_dim))};
    layout_ = make_document_layout(c_.starts, c_.window, at::kCPU);
    qkv_ = at::randn({layout_.tokens, (c_.heads + 2 * c_.kv_heads) * c_.head_dim}, at::kDouble);
    backend_ = make_attention_backend(c_.backend, at::kCPU, at::kDouble);
  }

  // Softmax over the band's keys; rows without one give 0 and -inf.
  Attended judge(Band band, const at::Tensor& qkv) const {
    const int64_t group = c_.heads / c_.kv_heads;
    const at::Tensor k = shape_.keys(qkv).repeat_interleave(group, 1);
    const at::Tensor v = shape_.values(qkv).repeat_interleave(group, 1);
    const at::Tensor scores = at::einsum("ihd,jhd->hij", {shape_.queries(qkv), k}) * shape_.scale;
    const at::Tensor mask = mask_of(band, c_);
    const at::Tensor weights =
        scores.exp() * mask.to(at::kDouble);  // scores are small: no maximum needed
    const at::Tensor sum = weights.sum(-1, true);
    const at::Tensor out =
        at::einsum("hij,jhd->ihd", {weights / at::where(sum > 0, sum, at::ones_like(sum)), v});
    return {out, sum.squeeze(-1).log()};
  }

  Case c_;
  AttentionShape shape_;
  DocumentLayout layout_;
  at::Tensor qkv_;
  std::unique_ptr<AttentionBackend> backend_;
};

TEST_P(BackendTest, ForwardEqualsSoftmaxOverTheBand) {
  for (const Band band : {Band::kNear, Band::kFar, Band::kFull}) {
    const Attended expected = judge(band, qkv_);
    const Attended found = backend_->forward(band, qkv_, layout_, shape_);
    EXPECT_LT((found.out - expected.out).abs().max().item<double>(), 1e-12);
    EXPECT_TRUE(at::allclose(found.logsumexp, expected.logsumexp, 1e-12, 1e-12));
  }
}

TEST_P(BackendTest, BackwardEqualsAutogradOfTheBand) {
  for (const Band band : {Band::kNear, Band::kFar, Band::kFull}) {
    const at::Tensor leaf = qkv_.clone().requires_grad_(true);
    const Attended expected = judge(band, leaf);
    const at::Tensor grad = at::randn_like(expected.out);
    (expected.out * grad).sum().backward();

    at::Tensor grad_qkv = at::ones_like(qkv_);  // it is added to
    // Where a row sees nothing its log-sum-exp is -inf; it must not be handed on.
    const Attended final = {expected.out.detach(), expected.logsumexp.detach().clamp_min(-1e30)};
    backend_->backward(band, grad, qkv_, final, {}, layout_, shape_, grad_qkv, GradientSum::kAdd);
    EXPECT_LT((grad_qkv - 1 - leaf.grad()).abs().max().item<double>(), 1e-10);
    grad_qkv.fill_(NAN);
    backend_->backward(band, grad, qkv_, final, {}, layout_, shape_, grad_qkv, GradientSum::kWrite);
    EXPECT_LT((grad_qkv - leaf.grad()).abs().max().item<double>(), 1e-10);
  }
}

TEST_P(BackendTest, RowsThatAreNotMarkedGiveNoGradient) {
  const at::Tensor rows = at::rand({layout_.tokens}) < 0.4;
  const at::Tensor leaf = qkv_.clone().requires_grad_(true);
  const Attended full = judge(Band::kFull, leaf);
  const at::Tensor grad = at::randn_like(full.out);
  (full.out * grad * rows.view({-1, 1, 1})).sum().backward();

  // Near and far of the marked rows with the final output add up to the full gradient.
  const Attended final = {full.out.detach(), full.logsumexp.detach()};
  at::Tensor grad_qkv = at::zeros_like(qkv_);
  backend_->backward(Band::kNear, grad, qkv_, final, rows, layout_, shape_, grad_qkv,
                     GradientSum::kAdd);
  backend_->backward(Band::kFar, grad, qkv_, final, rows, layout_, shape_, grad_qkv,
                     GradientSum::kAdd);
  EXPECT_LT((grad_qkv - leaf.grad()).abs().max().item<double>(), 1e-10);
}

TEST_P(BackendTest, SampledRowsHaveWhatBothBranchesGive) {
  const at::Tensor route = at::rand({layout_.tokens}) < 0.3;
  const at::Tensor far = layout_.position >= c_.window;
  const at::Tensor both = far.logical_and(route.logical_or(at::rand({layout_.tokens}) < 0.3));
  const at::Tensor none = both.logical_not();
  for (const auto reduction : {DisagreementReduction::kMean, DisagreementReduction::kSum}) {
    const SwitchSaved all = backend_->switch_forward(qkv_, route, layout_, shape_, reduction);
    SwitchSaved found = backend_->attend_sampled(qkv_, route, both, layout_, shape_, reduction);
    EXPECT_TRUE(at::equal(found.out, all.out));
    EXPECT_TRUE(at::equal(found.logsumexp, all.logsumexp));
    EXPECT_TRUE(at::equal(found.route, route));
    EXPECT_TRUE(at::equal(found.both, both));
    EXPECT_TRUE(at::equal(found.disagreement, all.disagreement.masked_fill(none, 0)));
    const at::Tensor marked = both.nonzero().flatten();
    EXPECT_TRUE(at::equal(found.difference.index_select(0, marked),
                          all.difference.index_select(0, marked)));

    found.difference.masked_fill_(none.view({-1, 1, 1}), 1e9);  // anything
    const at::Tensor grad = at::randn_like(all.out);
    const at::Tensor expected_qkv = at::empty_like(qkv_), found_qkv = at::empty_like(qkv_);
    const at::Tensor expected_gate =
        switch_attention_backward(*backend_, grad, {}, qkv_, all, layout_, shape_, expected_qkv);
    const at::Tensor found_gate =
        switch_attention_backward(*backend_, grad, {}, qkv_, found, layout_, shape_, found_qkv);
    EXPECT_TRUE(at::equal(found_qkv, expected_qkv));
    EXPECT_TRUE(at::equal(found_gate, expected_gate.masked_fill(none, 0)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, BackendTest, testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  return fmt::format("{}_{}_heads_{}_{}_window_{}_documents_{}", info.index, c.backend, c.heads,
                     c.kv_heads, c.window, c.starts.size() - 1);
});

TEST(AttentionNoticeTest, IsToldTheFirstSentenceAlone) {
  std::vector<std::string> told;
  AttentionNotice notice = [&](const std::string& sentence) { told.push_back(sentence); };
  tell_once(notice, "first");
  tell_once(notice, "second");
  EXPECT_EQ(told, std::vector<std::string>{"first"});
  AttentionNotice nobody;
  EXPECT_NO_THROW(tell_once(nobody, "first"));
}

TEST(BackendTableTest, AnUnknownNameIsRefusedInASentence) {
  try {
    make_attention_backend("sparse", at::kCPU, at::kFloat);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kConfiguration);
    const std::string sentence = error.what();
    for (const char* name : {"'sparse'", "auto", "reference", "library", "fused"}) {
      EXPECT_NE(sentence.find(name), std::string::npos) << name;
    }
  }
}

}  // namespace
}  // namespace swiattn
