// The attention kernels of listed rows against the reference backend in float64 on the same rounded
// operands, and FlashAttention-2, as ATen has it, for the size of the error.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "listed_rows.h"

namespace swiattn {
namespace {

constexpr int kRepeats = 20;

std::vector<int32_t> fifty_documents() {
  std::vector<int32_t> starts{0};
  for (int i = 0; i < 50; ++i) starts.push_back(starts.back() + 1 + i * 7919 % 150);
  return starts;
}

struct Case {
  const Implementation* kernels;
  Heads heads;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Implementation& kernels : implementations()) {
    for (const int64_t width : {64, 128}) {
      for (const auto& group :
           std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {2, 1}, {9, 3}, {8, 2}, {8, 1}}) {
        all.push_back({&kernels, {group.first, group.second, width}});
      }
    }
  }
  return all;
}

class ListedKernelsTest : public testing::TestWithParam<Case> {
 protected:
  ListedKernelsTest()
      : kernels_(*GetParam().kernels),
        judge_(make_attention_backend("reference", at::kCUDA, at::kDouble)),
        library_(make_flash_backend()) {
    at::manual_seed(11);
  }

  void SetUp() override {
    if (!runs_here(kernels_)) GTEST_SKIP() << "no device for " << kernels_.name;
  }

  struct Packing {
    std::vector<int32_t> starts;
    std::vector<int64_t> windows;
  };
  static std::vector<Packing> packings() {
    std::vector<Packing> all;
    for (const std::vector<int32_t>& starts :
         {std::vector<int32_t>{0, 512}, {0, 1, 131, 387, 900}, fifty_documents()}) {
      int64_t longest = 0;
      for (size_t i = 1; i < starts.size(); ++i) {
        longest = std::max<int64_t>(longest, starts[i] - starts[i - 1]);
      }
      all.push_back({starts, {1, 2, 127, 128, 129, longest - 1}});
    }
    all.push_back({{0, 513}, {513, 514}});  // nothing is far
    return all;
  }

  // Batches of all windows and documents.
  void for_each_batch(const std::function<void(const Batch&)>& check) const {
    for (const Packing& packing : packings()) {
      for (const int64_t window : packing.windows) {
        Batch batch(GetParam().heads, window, packing.starts);
        SCOPED_TRACE(describe(batch.shape, batch.layout));
        batch.finish(*judge_);
        check(batch);
      }
    }
  }

  // With no rows marked, the last row alone, some, all.
  void for_each_choice(
      const std::function<void(const Batch&, const at::Tensor& marked)>& check) const {
    for_each_batch([&](const Batch& batch) {
      const at::Tensor draws = at::rand({batch.layout.tokens}, options(at::kFloat));
      const at::Tensor last = at::zeros({batch.layout.tokens}, options(at::kBool));
      last[batch.layout.tokens - 1] = true;
      for (const at::Tensor& marked : {draws < 0, last, draws < 0.13, draws < 2}) {
        SCOPED_TRACE(fmt::format("{} rows marked", marked.sum().item<int64_t>()));
        check(batch, marked);
      }
    });
  }

  static at::Tensor half_of(const Batch& batch) {
    return at::rand({batch.layout.tokens}, options(at::kFloat)) < 0.5;
  }

  // `found` in the rows of these tokens; `library` is the output alone.
  static void expect_attended(const Attended& found, const at::Tensor& library,
                              const Attended& expected, const at::Tensor& tokens) {
    const auto of_rows = [&](const at::Tensor& x) { return x.index_select(0, tokens); };
    expect_near(of_rows(found.out), of_rows(library), of_rows(expected.out), "out");
    const at::Tensor error = found.logsumexp.index_select(1, tokens).to(at::kDouble) -
                             expected.logsumexp.index_select(1, tokens);
    EXPECT_TRUE(at::le(error.abs(), kLogsumexpTolerance).all().item<bool>()) << "log-sum-exp";
  }

  // Both branches by the library, of rows that have this near result.
  SwitchSaved library_merge(const Batch& batch, const Attended& near,
                            const at::Tensor& route) const {
    return library_->merge(near, batch.attended(*library_, Band::kFar), route, batch.layout,
                           batch.shape, DisagreementReduction::kMean);
  }

  // The squares of differences, summed, have at most twice the differences' relative error.
  static void expect_squares(const at::Tensor& found, const at::Tensor& library,
                             const at::Tensor& expected) {
    const double error = relative_error(found, expected.square().sum(-1));
    const double by_library = relative_error(library, expected);
    EXPECT_LE(error, 2 * allowed_error(by_library, luck_of(expected), kTolerance)) << fmt::format(
        "squares: error {:.3e}, that of the library's difference {:.3e}", error, by_library);
  }

  // dK and dV; nothing else is written.
  void expect_key_gradient(const Batch& batch, const at::Tensor& found,
                           const std::vector<Band>& bands, const at::Tensor& marked) const {
    const at::Tensor expected = batch.gradient(*judge_, at::kDouble, bands, marked);
    const at::Tensor library = batch.gradient(*library_, at::kBFloat16, bands, marked);
    const AttentionShape& shape = batch.shape;
    expect_near(shape.keys(found), shape.keys(library), shape.keys(expected), "dk");
    expect_near(shape.values(found), shape.values(library), shape.values(expected), "dv");
    EXPECT_TRUE(shape.queries(found).isnan().all().item<bool>());
  }

  const Implementation& kernels_;
  std::unique_ptr<AttentionBackend> judge_, library_;
};

TEST_P(ListedKernelsTest, AttendsToTheWindowAndToEverything) {
  for_each_batch([&](const Batch& batch) {
    const at::Tensor all = at::arange(batch.layout.tokens, options(at::kLong));
    for (const Band band : {Band::kNear, Band::kFull}) {
      const Attended found = nothing(batch);
      const int64_t window = band == Band::kNear ? batch.shape.window : batch.layout.longest;
      attend(kernels_, batch, Rows::near(batch, window), found);
      expect_attended(found, batch.attended(*library_, band).out, batch.exact(*judge_, band), all);
    }
  });
}

TEST_P(ListedKernelsTest, GoesOnFromTheNearResult) {
  for_each_choice([&](const Batch& batch, const at::Tensor& marked) {
    const Attended near = batch.exact(*judge_, Band::kNear);
    const Attended before{near.out.to(at::kBFloat16), near.logsumexp.to(at::kFloat)};
    const Attended found{before.out.clone(), before.logsumexp.clone()};
    const Rows rows = Rows::far(batch, marked);
    attend(kernels_, batch, rows, found);
    const at::Tensor tokens = rows.tokens();
    expect_attended(found, library_merge(batch, before, marked).out,
                    batch.exact(*judge_, Band::kFull), tokens);
    EXPECT_TRUE(at::equal(found.out.index_fill(0, tokens, 0), before.out.index_fill(0, tokens, 0)));
    EXPECT_TRUE(at::equal(found.logsumexp.index_fill(1, tokens, 0),
                          before.logsumexp.index_fill(1, tokens, 0)));
  });
}

// Near results as they are, and with so much more weight that next to nothing is far: the
// difference is judged relative to its own size, and by that of the merge of two rounded branches.
TEST_P(ListedKernelsTest, TellsTheDifferenceThatFarKeysMake) {
  for_each_choice([&](const Batch& batch, const at::Tensor& marked) {
    const Attended near = batch.exact(*judge_, Band::kNear);
    const Attended far = batch.exact(*judge_, Band::kFar);
    const Rows rows = Rows::far(batch, marked);
    const at::Tensor tokens = rows.tokens();
    const at::Tensor route = marked.logical_and(half_of(batch));
    const auto of_rows = [&](const at::Tensor& x) { return x.index_select(0, tokens); };
    for (const double more : {0.0, 5.0, 12.0, 25.0}) {
      SCOPED_TRACE(fmt::format("near weight e^{}", more));
      const Attended before{near.out.to(at::kBFloat16), (near.logsumexp + more).to(at::kFloat)};
      const Attended found{before.out.clone(), before.logsumexp.clone()};
      const Difference difference = attend_apart(kernels_, batch, rows, route, found);

      const at::Tensor before_logsumexp = before.logsumexp.to(at::kDouble);
      const at::Tensor full_logsumexp = at::logaddexp(before_logsumexp, far.logsumexp);
      const at::Tensor share = (far.logsumexp - full_logsumexp).exp().t().unsqueeze(-1);
      const at::Tensor before_out = before.out.to(at::kDouble);
      const at::Tensor expected = share * (far.out - before_out);
      const at::Tensor merged =
          (share * (far.out.to(at::kBFloat16).to(at::kDouble) - before_out)).to(at::kBFloat16);
      expect_as_near(of_rows(difference.rows), of_rows(merged), of_rows(expected), "difference",
                     kNextToNothing);
      expect_squares(of_rows(difference.squares.t()), of_rows(merged), of_rows(expected));

      // Routed rows are replaced; nothing else is written.
      const at::Tensor routed = rows.tokens().masked_select(of_rows(route));
      expect_attended(found, library_merge(batch, before, route).out,
                      {before_out + expected, full_logsumexp}, routed);
      EXPECT_TRUE(
          at::equal(found.out.index_fill(0, routed, 0), before.out.index_fill(0, routed, 0)));
      EXPECT_TRUE(at::equal(found.logsumexp.index_fill(1, routed, 0),
                            before.logsumexp.index_fill(1, routed, 0)));
      EXPECT_TRUE(difference.rows.index_fill(0, tokens, kNan).isnan().all().item<bool>());
      EXPECT_TRUE(difference.squares.index_fill(1, tokens, kNan).isnan().all().item<bool>());
    }
  });
}

TEST_P(ListedKernelsTest, TheSameDifferenceHasTheSameBits) {
  for_each_batch([&](const Batch& batch) {
    const Rows near = Rows::near(batch, batch.shape.window);
    const at::Tensor marked = half_of(batch);
    const at::Tensor unmarked =
        marked.logical_and(batch.layout.position >= batch.shape.window).logical_not();
    const Rows far = Rows::far(batch, marked);
    const at::Tensor route = marked.logical_and(half_of(batch));
    Attended start = nothing(batch);
    attend(kernels_, batch, near, start);
    const auto run = [&] {
      const Attended onto{start.out.clone(), start.logsumexp.clone()};
      const Difference to = attend_apart(kernels_, batch, far, route, onto);
      return std::vector<at::Tensor>{onto.out, onto.logsumexp,
                                     to.rows.masked_fill(unmarked.view({-1, 1, 1}), 0),
                                     to.squares.masked_fill(unmarked, 0)};
    };
    const std::vector<at::Tensor> first = run();
    for (int i = 1; i < kRepeats; ++i) {
      const std::vector<at::Tensor> again = run();
      for (size_t j = 0; j < first.size(); ++j) EXPECT_TRUE(at::equal(again[j], first[j])) << j;
    }
  });
}

TEST_P(ListedKernelsTest, KeyGradientOfOneList) {
  for_each_choice([&](const Batch& batch, const at::Tensor& marked) {
    const at::Tensor found = unwritten_gradient(batch);
    key_gradient(kernels_, batch, Rows::far(batch, marked), nullptr, found);
    expect_key_gradient(batch, found, {Band::kFar}, marked);
  });
}

TEST_P(ListedKernelsTest, KeyGradientOfBothLists) {
  for_each_choice([&](const Batch& batch, const at::Tensor& marked) {
    const at::Tensor found = unwritten_gradient(batch);
    const Rows far = Rows::far(batch, marked);
    key_gradient(kernels_, batch, Rows::near(batch, batch.shape.window), &far, found);
    expect_key_gradient(batch, found, {Band::kNear, Band::kFar}, marked);
  });
}

TEST_P(ListedKernelsTest, QueryGradient) {
  for_each_choice([&](const Batch& batch, const at::Tensor& marked) {
    const AttentionShape& shape = batch.shape;
    const auto gradient = [&](const AttentionBackend& backend, at::ScalarType type,
                              const std::vector<Band>& bands) {
      return shape.queries(batch.gradient(backend, type, bands, marked));
    };
    const Rows far = Rows::far(batch, marked);
    const at::Tensor tokens = far.tokens();
    const auto of_rows = [&](const at::Tensor& x) { return x.index_select(0, tokens); };

    // Of the listed rows alone, nothing else being written ...
    const at::Tensor found = unwritten_gradient(batch);
    query_gradient(kernels_, batch, far, GradientSum::kWrite, found);
    expect_near(of_rows(shape.queries(found)),
                of_rows(gradient(*library_, at::kBFloat16, {Band::kFar})),
                of_rows(gradient(*judge_, at::kDouble, {Band::kFar})), "dq, far");
    EXPECT_TRUE(shape.queries(found).index_fill(0, tokens, kNan).isnan().all().item<bool>());
    EXPECT_TRUE(shape.keys(found).isnan().all().item<bool>());
    EXPECT_TRUE(shape.values(found).isnan().all().item<bool>());

    // ... and on top of that of all rows.
    query_gradient(kernels_, batch, Rows::near(batch, shape.window), GradientSum::kWrite, found);
    query_gradient(kernels_, batch, far, GradientSum::kAdd, found);
    const std::vector<Band> both{Band::kNear, Band::kFar};
    expect_near(shape.queries(found), gradient(*library_, at::kBFloat16, both),
                gradient(*judge_, at::kDouble, both), "dq, both");
  });
}

TEST_P(ListedKernelsTest, TheSameOperandsGiveTheSameBits) {
  for_each_batch([&](const Batch& batch) {
    const Rows near = Rows::near(batch, batch.shape.window);
    const Rows far = Rows::far(batch, half_of(batch));
    const auto gradients = [&] {
      at::Tensor to = unwritten_gradient(batch);
      key_gradient(kernels_, batch, near, &far, to);
      query_gradient(kernels_, batch, near, GradientSum::kWrite, to);
      query_gradient(kernels_, batch, far, GradientSum::kAdd, to);
      return to;
    };
    const auto attended = [&] {
      Attended to = nothing(batch);
      attend(kernels_, batch, near, to);
      attend(kernels_, batch, far, to);
      return to;
    };
    const at::Tensor first = gradients();
    const Attended first_attended = attended();
    for (int i = 1; i < kRepeats; ++i) {
      EXPECT_TRUE(at::equal(gradients(), first)) << i;
      const Attended again = attended();
      EXPECT_TRUE(at::equal(again.out, first_attended.out)) << i;
      EXPECT_TRUE(at::equal(again.logsumexp, first_attended.logsumexp)) << i;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, ListedKernelsTest, testing::ValuesIn(cases()), [](const auto& info) {
  const Case& c = info.param;
  return fmt::format("{}_heads_{}_{}_width_{}", c.kernels->name, c.heads.query, c.heads.kv,
                     c.heads.width);
});

}  // namespace
}  // namespace swiattn
