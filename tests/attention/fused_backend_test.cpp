// The fused backend's own kernels against the reference backend in float64 on the same rounded
// inputs, and the same mathematics by the bfloat16 libraries for the size of the error.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "attention/backend.h"
#include "attention/switch_attention.h"
#include "library_error.h"

namespace swiattn {
namespace {

constexpr double kFloatSum = 1e-5;  // of float32, beside the sum of the terms' sizes

struct Case {
  int64_t heads, kv_heads, head_dim, window;
  std::vector<int32_t> starts;
  double steepness = 1;  // of scores, over those of random queries and keys
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
    for (const int64_t more : {-1, 0, 1}) {  // than the longest document, whose length is odd
      all.push_back({4, 2, head_dim, 513 + more, {0, 513}});
      all.push_back({4, 2, head_dim, 613 + more, {0, 1, 131, 387, 1000}});
    }
    for (const std::vector<int32_t>& starts :  // shorter than a tile of rows or of keys
         {std::vector<int32_t>{0, 1}, {0, 63}, {0, 65}, {0, 127}, {0, 1, 129}}) {
      all.push_back({4, 2, head_dim, 16, starts});
    }
    for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {2, 1}, {9, 3}, {8, 2}, {8, 1}}) {
      all.push_back({heads, kv_heads, head_dim, 128, {0, 777}});
      all.push_back({heads, kv_heads, head_dim, 100, many_documents(50, 300)});
    }
    // The largest score so far grows again and again, and most keys have no weight.
    all.push_back({4, 2, head_dim, 128, {0, 777}, 8.0});
    all.push_back({4, 2, head_dim, 100, {0, 300, 1000}, 30.0});
  }
  return all;
}

class FusedBackendTest : public testing::TestWithParam<Case> {
 protected:
  FusedBackendTest() : c_(GetParam()) {
    at::manual_seed(3);
    shape_ = {c_.heads, c_.kv_heads, c_.head_dim, c_.window,
              1.0 / std::sqrt(static_cast<double>(c_.head_dim))};
    layout_ = make_document_layout(c_.starts, c_.window, at::kCUDA);
    trace_.emplace(__FILE__, __LINE__,
                   fmt::format("{}, steepness {}", describe(shape_, layout_), c_.steepness));
    qkv_ = random({layout_.tokens, (c_.heads + 2 * c_.kv_heads) * c_.head_dim});
    shape_.queries(qkv_).mul_(c_.steepness);
    grad_ = random({layout_.tokens, c_.heads, c_.head_dim});
    judge_ = make_attention_backend("reference", at::kCUDA, at::kDouble);
    library_ = make_attention_backend("library", at::kCUDA, at::kBFloat16);
    fused_ = make_attention_backend("fused", at::kCUDA, at::kBFloat16);
  }

  static at::Tensor random(at::IntArrayRef shape) {
    return at::randn(shape, at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16));
  }

  // What the forward would have left, exactly, and as rounded for the backends of bfloat16.
  SwitchSaved saved(const at::Tensor& route, at::ScalarType type) const {
    SwitchSaved saved = judge_->switch_forward(qkv_.to(at::kDouble), route, layout_, shape_,
                                               DisagreementReduction::kMean);
    const at::ScalarType statistics = type == at::kDouble ? type : at::kFloat;
    saved.out = saved.out.to(type).contiguous();
    saved.difference = saved.difference.to(type).contiguous();
    saved.logsumexp = saved.logsumexp.to(statistics);
    saved.disagreement = saved.disagreement.to(statistics);
    return saved;
  }

  struct Gradients {
    at::Tensor qkv, gate;
  };
  Gradients switch_backward(const AttentionBackend& backend, const at::Tensor& route,
                            at::ScalarType type) const {
    const at::Tensor grad_qkv = at::full(qkv_.sizes(), NAN, qkv_.options().dtype(type));
    const at::Tensor gate = switch_attention_backward(
        backend, grad_.to(type), {}, qkv_.to(type), saved(route, type), layout_, shape_, grad_qkv);
    return {grad_qkv, gate};
  }

  // Fused is as near to the truth as the library, give or take half.
  void compare(const at::Tensor& found, const at::Tensor& library, const at::Tensor& expected,
               const char* what, double slack = kNextToNothing) const {
    expect_as_near(found, library, expected, what, slack,
                   c_.steepness == 1 ? kTolerance : kInfinity);
  }
  // The same of these rows alone.
  void compare_rows(const at::Tensor& rows, const at::Tensor& found, const at::Tensor& library,
                    const at::Tensor& expected, const char* what) const {
    const at::Tensor token = rows.nonzero().flatten();
    const auto of_rows = [&](const at::Tensor& x) { return x.index_select(0, token); };
    compare(of_rows(found), of_rows(library), of_rows(expected), what, luck_of(of_rows(expected)));
  }
  void compare_qkv(const at::Tensor& found, const at::Tensor& library,
                   const at::Tensor& expected) const {
    compare(shape_.queries(found), shape_.queries(library), shape_.queries(expected), "dq");
    compare(shape_.keys(found), shape_.keys(library), shape_.keys(expected), "dk");
    compare(shape_.values(found), shape_.values(library), shape_.values(expected), "dv");
  }

  // <dL/do, o_full - o_near> of a token may be next to nothing beside what it is summed of, and
  // then rounding the difference to bfloat16, as it is kept, says most of its error. So it is as
  // near as the library's to the truth, and on the same rounded difference near to what float64
  // makes of it, beside the sum of the terms' sizes. `rows`: the tokens that have a difference.
  void compare_gate(const Gradients& found, const Gradients& library, const Gradients& expected,
                    const at::Tensor& difference, const at::Tensor& rows) const {
    expect_as_near(found.gate, library.gate, expected.gate, "gate gradient", kNextToNothing,
                   kInfinity);
    const at::Tensor kept = difference.masked_fill((~rows).view({-1, 1, 1}), 0);
    const at::Tensor terms = grad_.to(at::kDouble) * kept.to(at::kDouble);
    const at::Tensor error = (found.gate.to(at::kDouble) - terms.sum({1, 2})).abs();
    EXPECT_TRUE(at::le(error, kFloatSum * terms.abs().sum({1, 2})).all().item<bool>())
        << "gate gradient on the same difference: error " << error.max().item<double>();
  }

  void expect_switch_backward(const at::Tensor& route) const {
    const Gradients expected = switch_backward(*judge_, route, at::kDouble);
    const Gradients library = switch_backward(*library_, route, at::kBFloat16);
    const Gradients found = switch_backward(*fused_, route, at::kBFloat16);
    compare_qkv(found.qkv, library.qkv, expected.qkv);
    compare_gate(found, library, expected, saved(route, at::kBFloat16).difference, random_rows(2));
  }

  // Squares have twice the relative error of what is squared: at most that of the library's
  // difference. `rows`: those with a difference; undefined: all.
  static void expect_disagreement(const SwitchSaved& found, const SwitchSaved& library,
                                  const SwitchSaved& expected, const at::Tensor& rows) {
    const auto of_rows = [&](const at::Tensor& x) {
      return rows.defined() ? x.index_select(0, rows) : x;
    };
    const at::Tensor difference = of_rows(expected.difference);
    expect_as_near(found.disagreement, library.disagreement, expected.disagreement, "disagreement",
                   2 * luck_of(difference),
                   2 * relative_error(of_rows(library.difference), difference) + kNextToNothing);
  }

  at::Tensor random_rows(double share) const {
    return at::rand({layout_.tokens}, grad_.options().dtype(at::kFloat)) < share;
  }

  // All tokens take the window, some everything, all do, or one: the last of the longest document,
  // so that it has far keys if any has.
  std::vector<at::Tensor> routes() const {
    const at::Tensor one = random_rows(-1);
    one[layout_.position.argmax().item<int64_t>()] = true;
    return {random_rows(-1), random_rows(0.13), random_rows(2), one};
  }

  struct Sample {
    at::Tensor route, both;
  };
  // A share of the rows takes everything, more get both branches; `more` -2: the last row alone.
  Sample random_sample(double share, double more) const {
    const at::Tensor route = random_rows(share);
    at::Tensor others = random_rows(more);
    if (more == -2) others[layout_.tokens - 1] = true;
    const at::Tensor far = layout_.position >= c_.window;
    return {route, far.logical_and(route.logical_or(others))};
  }
  static std::vector<std::pair<double, double>> sampling_shares() {
    return {{-1, -1}, {-1, -2}, {-1, 2}, {0.13, -1}, {0.13, 0.1}, {0.13, 2}, {2, -1}};
  }
  SwitchSaved attend_sampled(const AttentionBackend& backend, const Sample& sample,
                             at::ScalarType type) const {
    return backend.attend_sampled(qkv_.to(type), sample.route, sample.both, layout_, shape_,
                                  DisagreementReduction::kMean);
  }

  Case c_;
  AttentionShape shape_;
  DocumentLayout layout_;
  std::optional<testing::ScopedTrace> trace_;
  at::Tensor qkv_, grad_;
  std::unique_ptr<AttentionBackend> judge_, library_, fused_;
};

TEST_P(FusedBackendTest, BackwardOfARandomRoute) { expect_switch_backward(random_rows(0.13)); }
TEST_P(FusedBackendTest, BackwardWithAllRowsFull) { expect_switch_backward(random_rows(2)); }
TEST_P(FusedBackendTest, BackwardWithNoRowFull) { expect_switch_backward(random_rows(-1)); }
TEST_P(FusedBackendTest, BackwardWithTheLastRowFull) {
  const at::Tensor route = random_rows(-1);
  route[layout_.tokens - 1] = true;
  expect_switch_backward(route);
}

TEST_P(FusedBackendTest, BackwardRepeatsItsBits) {
  const at::Tensor route = random_rows(0.3);
  const Gradients first = switch_backward(*fused_, route, at::kBFloat16);
  for (int i = 0; i < 20; ++i) {
    const Gradients again = switch_backward(*fused_, route, at::kBFloat16);
    EXPECT_TRUE(at::equal(first.qkv, again.qkv));
    EXPECT_TRUE(at::equal(first.gate, again.gate));
  }
}

TEST_P(FusedBackendTest, DeterministicBackwardOfLayersWithoutAChoice) {
  const bool before = at::globalContext().deterministicAlgorithms();
  at::globalContext().setDeterministicAlgorithms(true, false);
  for (const Band band : {Band::kNear, Band::kFull}) {
    const auto backward = [&](const AttentionBackend& backend, at::ScalarType type) {
      const Attended exact = judge_->forward(band, qkv_.to(at::kDouble), layout_, shape_);
      const Attended final{exact.out.to(type),
                           exact.logsumexp.to(type == at::kDouble ? type : at::kFloat)};
      at::Tensor grad_qkv = at::full(qkv_.sizes(), NAN, qkv_.options().dtype(type));
      backend.backward(band, grad_.to(type), qkv_.to(type), final, {}, layout_, shape_, grad_qkv,
                       GradientSum::kWrite);
      return grad_qkv;
    };
    const at::Tensor found = backward(*fused_, at::kBFloat16);
    compare_qkv(found, backward(*library_, at::kBFloat16), backward(*judge_, at::kDouble));
    for (int i = 0; i < 20; ++i) EXPECT_TRUE(at::equal(found, backward(*fused_, at::kBFloat16)));
  }
  at::globalContext().setDeterministicAlgorithms(before, false);
}

TEST_P(FusedBackendTest, RoutedForward) {
  for (const at::Tensor& route : routes()) {
    SCOPED_TRACE(fmt::format("{} routed", route.sum().item<int64_t>()));
    const at::Tensor expected = judge_->attend_routed(qkv_.to(at::kDouble), route, layout_, shape_);
    const at::Tensor library = library_->attend_routed(qkv_, route, layout_, shape_);
    const at::Tensor found = fused_->attend_routed(qkv_, route, layout_, shape_);
    compare(found, library, expected, "out");
    compare_rows(route, found, library, expected, "out of the routed rows");
  }
}

TEST_P(FusedBackendTest, ForwardOfBothBranches) {
  const auto forward = [&](const AttentionBackend& backend, const at::Tensor& route,
                           at::ScalarType type) {
    return backend.switch_forward(qkv_.to(type), route, layout_, shape_,
                                  DisagreementReduction::kMean);
  };
  const at::Tensor near_logsumexp = forward(*fused_, random_rows(-1), at::kBFloat16).logsumexp;
  for (const at::Tensor& route : routes()) {
    SCOPED_TRACE(fmt::format("{} routed", route.sum().item<int64_t>()));
    const SwitchSaved expected = forward(*judge_, route, at::kDouble);
    const SwitchSaved library = forward(*library_, route, at::kBFloat16);
    const SwitchSaved found = forward(*fused_, route, at::kBFloat16);
    compare(found.out, library.out, expected.out, "out");
    compare_rows(route, found.out, library.out, expected.out, "out of the routed rows");
    compare(found.difference, library.difference, expected.difference, "difference");
    expect_disagreement(found, library, expected, {});
    EXPECT_TRUE(at::le((found.logsumexp - expected.logsumexp).abs(), 1e-4).all().item<bool>());

    // Nothing is far of these.
    const at::Tensor first = (layout_.position < c_.window).nonzero().flatten();
    EXPECT_EQ(at::count_nonzero(found.difference.index_select(0, first)).item<int64_t>(), 0);
    EXPECT_EQ(at::count_nonzero(found.disagreement.index_select(0, first)).item<int64_t>(), 0);
    EXPECT_TRUE(
        at::equal(found.logsumexp.index_select(1, first), near_logsumexp.index_select(1, first)));
  }
}

TEST_P(FusedBackendTest, ForwardOfBothBranchesRepeatsItsBits) {
  const at::Tensor route = random_rows(0.3);
  const auto forward = [&] {
    const SwitchSaved saved =
        fused_->switch_forward(qkv_, route, layout_, shape_, DisagreementReduction::kMean);
    return std::vector<at::Tensor>{saved.out, saved.difference, saved.logsumexp,
                                   saved.disagreement};
  };
  const std::vector<at::Tensor> first = forward();
  for (int i = 0; i < 20; ++i) {
    const std::vector<at::Tensor> again = forward();
    for (size_t j = 0; j < first.size(); ++j) EXPECT_TRUE(at::equal(again[j], first[j])) << j;
  }
}

// Both branches of the routed rows and of some others.
TEST_P(FusedBackendTest, SampledForward) {
  for (const auto& [share, more] : sampling_shares()) {
    SCOPED_TRACE(fmt::format("routed {}, more {}", share, more));
    const Sample sample = random_sample(share, more);
    const SwitchSaved expected = attend_sampled(*judge_, sample, at::kDouble);
    const SwitchSaved library = attend_sampled(*library_, sample, at::kBFloat16);
    const SwitchSaved found = attend_sampled(*fused_, sample, at::kBFloat16);
    compare(found.out, library.out, expected.out, "out");
    EXPECT_TRUE(at::le((found.logsumexp - expected.logsumexp).abs(), 1e-4).all().item<bool>());
    const at::Tensor marked = sample.both.nonzero().flatten();
    const auto of_marked = [&](const at::Tensor& x) { return x.index_select(0, marked); };
    compare(of_marked(found.difference), of_marked(library.difference),
            of_marked(expected.difference), "difference");
    expect_disagreement(found, library, expected, marked);
    EXPECT_EQ(at::count_nonzero(found.disagreement * ~sample.both).item<int64_t>(), 0);

    // Rows of the window are the library's.
    const Attended near = fused_->forward(Band::kNear, qkv_, layout_, shape_);
    const at::Tensor window = (~sample.route).nonzero().flatten();
    EXPECT_TRUE(at::equal(found.out.index_select(0, window), near.out.index_select(0, window)));
    EXPECT_TRUE(
        at::equal(found.logsumexp.index_select(1, window), near.logsumexp.index_select(1, window)));
  }
}

// What the forward has not written is NaN.
TEST_P(FusedBackendTest, SampledBackward) {
  for (const auto& [share, more] : sampling_shares()) {
    SCOPED_TRACE(fmt::format("routed {}, more {}", share, more));
    const Sample sample = random_sample(share, more);
    const auto backward = [&](const AttentionBackend& backend, at::ScalarType type) {
      SwitchSaved saved = this->saved(sample.route, type);
      saved.both = sample.both;
      saved.difference.masked_fill_((~sample.both).view({-1, 1, 1}), NAN);
      const at::Tensor grad_qkv = at::full(qkv_.sizes(), NAN, qkv_.options().dtype(type));
      const at::Tensor gate = switch_attention_backward(backend, grad_.to(type), {}, qkv_.to(type),
                                                        saved, layout_, shape_, grad_qkv);
      return Gradients{grad_qkv, gate};
    };
    const Gradients expected = backward(*judge_, at::kDouble);
    const Gradients library = backward(*library_, at::kBFloat16);
    const Gradients found = backward(*fused_, at::kBFloat16);
    compare_qkv(found.qkv, library.qkv, expected.qkv);
    compare_gate(found, library, expected, saved(sample.route, at::kBFloat16).difference,
                 sample.both);
    EXPECT_EQ(at::count_nonzero(found.gate * ~sample.both).item<int64_t>(), 0);
  }
}

TEST_P(FusedBackendTest, SampledForwardRepeatsItsBits) {
  const Sample sample = random_sample(0.13, 0.1);
  const at::Tensor none = (~sample.both).view({-1, 1, 1});
  const SwitchSaved first = attend_sampled(*fused_, sample, at::kBFloat16);
  for (int i = 0; i < 20; ++i) {
    const SwitchSaved again = attend_sampled(*fused_, sample, at::kBFloat16);
    EXPECT_TRUE(at::equal(again.out, first.out));
    EXPECT_TRUE(at::equal(again.logsumexp, first.logsumexp));
    EXPECT_TRUE(at::equal(again.disagreement, first.disagreement));
    EXPECT_TRUE(
        at::equal(again.difference.masked_fill(none, 0), first.difference.masked_fill(none, 0)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, FusedBackendTest, testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  return fmt::format("{}_heads_{}_{}_width_{}_window_{}_documents_{}_steep_{}", info.index, c.heads,
                     c.kv_heads, c.head_dim, c.window, c.starts.size() - 1, c.steepness);
});

}  // namespace
}  // namespace swiattn
