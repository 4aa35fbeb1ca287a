// The attention kernels of listed rows at the ends of what they take: nothing, other head widths,
// elements beyond 2^31.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "attention/attend_branches.h"
#include "listed_rows.h"

namespace swiattn {
namespace {

class LargeListedKernelsTest : public testing::TestWithParam<const Implementation*> {
 protected:
  LargeListedKernelsTest() : kernels_(*GetParam()) { at::manual_seed(12); }

  void SetUp() override {
    if (!runs_here(kernels_)) GTEST_SKIP() << "no device for " << kernels_.name;
  }

  const Implementation& kernels_;
};

TEST_P(LargeListedKernelsTest, NoTokensAreNoLaunch) {
  gpu::KeyValues none{};
  none.head_dim = 64;
  EXPECT_NO_THROW(kernels_.attend_rows({{}, none, nullptr, nullptr}, current_stream()));
  EXPECT_NO_THROW(kernels_.key_gradient({{}, {}, none, nullptr, nullptr, 0}, current_stream()));
  EXPECT_NO_THROW(kernels_.query_gradient({{}, none, nullptr, 0, false}, current_stream()));
}

TEST_P(LargeListedKernelsTest, OtherHeadWidthsAreRefused) {
  gpu::KeyValues narrow{};
  narrow.tokens = 64;
  narrow.head_dim = 32;
  EXPECT_ANY_THROW(kernels_.attend_rows({{}, narrow, nullptr, nullptr}, current_stream()));
  EXPECT_ANY_THROW(kernels_.key_gradient({{}, {}, narrow, nullptr, nullptr, 0}, current_stream()));
  EXPECT_ANY_THROW(kernels_.query_gradient({{}, narrow, nullptr, 0, false}, current_stream()));
}

// Documents of 64 tokens of which the last ones are judged. All others are as good as not there:
// their log-sum-exp makes their weights vanish.
TEST_P(LargeListedKernelsTest, ElementsBeyondTwoToThe31) {
  constexpr Heads kHeads{16, 1, 128};
  constexpr int64_t kLength = 64;
  constexpr int64_t kJudged = 4;
  constexpr int64_t kDocuments = (int64_t{1} << 31) / (kHeads.query * kHeads.width * kLength) + 8;
  size_t free = 0, total = 0;
  SWIATTN_CHECK_CUDA(cudaMemGetInfo(&free, &total));
  if (total < size_t{60} << 30) GTEST_SKIP() << "needs a GPU of 60 GiB";

  const auto judge = make_attention_backend("reference", at::kCUDA, at::kDouble);
  const auto library = make_flash_backend();
  const auto starts = [](int64_t documents) {
    std::vector<int32_t> all;
    for (int64_t i = 0; i <= documents; ++i) all.push_back(static_cast<int32_t>(i * kLength));
    return all;
  };
  const auto last = [](const at::Tensor& x, int64_t dimension = 0) {
    return x.narrow(dimension, x.size(dimension) - kJudged * kLength, kJudged * kLength);
  };
  Batch batch(kHeads, 1, starts(kDocuments));
  SCOPED_TRACE(describe(batch.shape, batch.layout));
  Batch end(kHeads, 1, starts(kJudged));
  end.qkv = last(batch.qkv).clone();
  end.grad = last(batch.grad).clone();
  end.finish(*judge);
  batch.final = {at::zeros_like(batch.grad),
                 filled({kHeads.query, batch.layout.tokens}, at::kFloat, 100)};
  last(batch.final.out).copy_(end.final.out);
  last(batch.final.logsumexp, 1).copy_(end.final.logsumexp);
  const Rows near = Rows::near(batch, 1);
  const Rows far = Rows::far(batch, at::ones({batch.layout.tokens}, options(at::kBool)));
  const Attended full = end.exact(*judge, Band::kFull);
  const at::Tensor full_difference = full.out - end.exact(*judge, Band::kNear).out;
  const SwitchSaved by_library =
      library->switch_forward(end.qkv, at::ones({end.layout.tokens}, options(at::kBool)),
                              end.layout, end.shape, DisagreementReduction::kMean);
  {
    const Attended found = nothing(batch);
    attend(kernels_, batch, near, found);
    attend(kernels_, batch, far, found);
    expect_near(last(found.out), by_library.out, full.out, "out");
  }
  {
    const Attended found = nothing(batch);
    attend(kernels_, batch, near, found);
    const at::Tensor route = at::zeros({batch.layout.tokens}, options(at::kBool));
    last(route).fill_(true);
    const Difference difference = attend_apart(kernels_, batch, far, route, found);
    expect_near(last(found.out), by_library.out, full.out, "out of the routed rows");
    const at::Tensor has_far = last(batch.layout.position >= 1).nonzero().flatten();
    const auto of_far = [&](const at::Tensor& x) { return x.index_select(0, has_far); };
    expect_near(of_far(last(difference.rows)), of_far(by_library.difference),
                of_far(full_difference), "difference");
    EXPECT_LE(relative_error(of_far(last(difference.squares, 1).t()),
                             of_far(full_difference.square().sum(-1))),
              2 * kTolerance);
  }
  if (std::string_view(kernels_.name) == "sm90") {
    const at::Tensor route = at::ones({batch.layout.tokens}, options(at::kBool));
    const at::Tensor out = at::empty_like(batch.grad), difference = at::empty_like(batch.grad);
    const at::Tensor statistics =
        at::empty({2, kHeads.query, batch.layout.tokens}, options(at::kFloat));
    const auto statistic = [&](int i) { return statistics[i].mutable_data_ptr<float>(); };
    const at::Tensor query = batch.shape.queries(batch.qkv);
    gpu::attend_branches_sm90(
        {query.const_data_ptr(), query.stride(0), batch.key_values(),
         batch.layout.position.const_data_ptr<int64_t>(), batch.shape.window,
         route.const_data_ptr<bool>(), out.mutable_data_ptr(), difference.mutable_data_ptr(),
         statistic(0), statistic(1), at::zeros({1}, options(at::kInt)).mutable_data_ptr<int32_t>()},
        current_stream());
    expect_near(last(out), by_library.out, full.out, "out of both branches");
    expect_near(last(difference), by_library.difference, full_difference,
                "difference of both branches");
    EXPECT_LE(relative_error(last(statistics[0], 1), full.logsumexp), 1e-5);
  }
  const std::vector<Band> both{Band::kNear, Band::kFar};
  const at::Tensor expected = end.gradient(*judge, at::kDouble, both, {});
  const at::Tensor gradient_by_library = end.gradient(*library, at::kBFloat16, both, {});
  const at::Tensor found = unwritten_gradient(batch);
  key_gradient(kernels_, batch, near, &far, found);
  query_gradient(kernels_, batch, near, GradientSum::kWrite, found);
  query_gradient(kernels_, batch, far, GradientSum::kAdd, found);
  const auto expect_part = [&](const auto& part, const char* what) {
    expect_near(part(last(found)), part(gradient_by_library), part(expected), what);
  };
  expect_part([&](const at::Tensor& x) { return end.shape.queries(x); }, "dq");
  expect_part([&](const at::Tensor& x) { return end.shape.keys(x); }, "dk");
  expect_part([&](const at::Tensor& x) { return end.shape.values(x); }, "dv");
}

std::vector<const Implementation*> pointers() {
  std::vector<const Implementation*> all;
  for (const Implementation& kernels : implementations()) all.push_back(&kernels);
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, LargeListedKernelsTest, testing::ValuesIn(pointers()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace swiattn
