// The attention kernels of listed rows against the reference backend in float64, on the same
// rounded operands. What a kernel has to write is NaN before.
#include "attention/listed_kernels.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string_view>
#include <vector>

#include "attention/backend.h"
#include "base/cuda_check.h"

namespace swiattn {
namespace {

// The kernels under test, and the major compute capabilities that they are built for.
struct Implementation {
  const char* name;
  std::vector<int> devices;
  void (*attend_rows)(const gpu::AttendRowsArguments&, void*);
  void (*key_gradient)(const gpu::KeyGradientArguments&, void*);
  void (*query_gradient)(const gpu::QueryGradientArguments&, void*);
};

const std::vector<Implementation>& implementations() {
  static const std::vector<Implementation> all = {
      {"sm80", {8, 9}, gpu::attend_rows_sm80, gpu::key_gradient_sm80, gpu::query_gradient_sm80},
      {"sm90", {9}, gpu::attend_rows_sm90, gpu::key_gradient_sm90, gpu::query_gradient_sm90},
  };
  return all;
}

bool runs_here(const Implementation& kernels) {
  int major = 0;
  SWIATTN_CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return std::count(kernels.devices.begin(), kernels.devices.end(), major) > 0;
}

constexpr double kTolerance = 6e-3;           // relative, of outputs and gradients
constexpr double kLogsumexpTolerance = 1e-4;  // absolute
constexpr int kRepeats = 20;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
at::TensorOptions options(at::ScalarType type) {
  return at::TensorOptions().device(at::kCUDA).dtype(type);
}
at::Tensor random(at::IntArrayRef shape) {
  return at::empty(shape, options(at::kBFloat16)).normal_();
}
at::Tensor filled(at::IntArrayRef shape, at::ScalarType type, double value) {
  return at::full(shape, value, options(type));
}

// |found - expected| / |expected|; NaN if anything is.
double relative_error(const at::Tensor& found, const at::Tensor& expected) {
  const double size = expected.norm().item<double>();
  const double error = (found.to(at::kDouble) - expected).norm().item<double>();
  return size > 0 ? error / size : error;
}

struct Heads {
  int64_t query, kv, width;
};

// A packed batch, and the final result of its rows as a forward leaves it.
struct Batch {
  AttentionShape shape;
  DocumentLayout layout;
  at::Tensor qkv;   // [T, (Hq + 2 Hkv) D]
  at::Tensor grad;  // [T, Hq, D]
  Attended final;   // out bfloat16, logsumexp float32

  Batch(const Heads& heads, int64_t window, const std::vector<int32_t>& starts)
      : shape{heads.query, heads.kv, heads.width, window,
              1.0 / std::sqrt(static_cast<double>(heads.width))},
        layout(make_document_layout(starts, window, at::kCUDA)),
        qkv(random({layout.tokens, (heads.query + 2 * heads.kv) * heads.width})),
        grad(random({layout.tokens, heads.query, heads.width})) {}

  const int64_t* position() const { return layout.position.const_data_ptr<int64_t>(); }
  int64_t capacity() const { return gpu::list_capacity(layout.tokens); }

  Attended exact(const AttentionBackend& judge, Band band) const {
    return judge.forward(band, qkv.to(at::kDouble), layout, shape);
  }
  void finish(const AttentionBackend& judge) {
    const Attended full = exact(judge, Band::kFull);
    final = {full.out.to(at::kBFloat16), full.logsumexp.to(at::kFloat)};
  }
  // dL/dqkv through the keys of a band, of the rows marked, in float64.
  at::Tensor exact_gradient(const AttentionBackend& judge, Band band,
                            const at::Tensor& rows) const {
    at::Tensor grad_qkv = at::zeros(qkv.sizes(), options(at::kDouble));
    judge.backward(band, grad.to(at::kDouble), qkv.to(at::kDouble),
                   {final.out.to(at::kDouble), final.logsumexp.to(at::kDouble)}, rows, layout,
                   shape, grad_qkv, GradientMode::kAdd);
    return grad_qkv;
  }

  gpu::KeyValues key_values() const {
    return {shape.keys(qkv).const_data_ptr(),
            shape.values(qkv).const_data_ptr(),
            qkv.stride(0),
            layout.tokens,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            static_cast<float>(shape.scale)};
  }
};

// Listed rows of a batch with their operands.
class Rows {
 public:
  // Every token with its window, at most `window` keys.
  static Rows near(const Batch& batch, int64_t window) {
    Rows rows(batch, batch.layout.tokens);
    gpu::list_near_rows({batch.position(), batch.layout.tokens, window, rows.list()}, stream());
    rows.query_ = batch.shape.queries(batch.qkv);
    rows.grad_ = batch.grad;
    gpu::row_statistics(
        {batch.grad.const_data_ptr(), batch.final.out.const_data_ptr(), nullptr,
         batch.final.logsumexp.const_data_ptr<float>(), batch.position(),
         rows.delta_.mutable_data_ptr<float>(), rows.lse_.mutable_data_ptr<float>(), nullptr,
         batch.layout.tokens, batch.shape.heads, batch.shape.head_dim, window},
        stream());
    return rows;
  }

  // The marked tokens with what lies before their window.
  static Rows far(const Batch& batch, const at::Tensor& marked) {
    Rows rows(batch, batch.capacity());
    const AttentionShape& shape = batch.shape;
    const at::Tensor counts = at::empty({gpu::list_blocks(batch.layout.tokens)}, options(at::kInt));
    gpu::list_far_rows({marked.const_data_ptr<bool>(), batch.position(), batch.layout.tokens,
                        shape.window, counts.mutable_data_ptr<int32_t>(), rows.list()},
                       stream());
    const std::vector<int64_t> compact{batch.capacity(), shape.heads, shape.head_dim};
    rows.query_ = filled(compact, at::kBFloat16, kNan);
    rows.grad_ = filled(compact, at::kBFloat16, kNan);
    gpu::gather_rows(
        {near(batch, shape.window).view(), rows.list(), rows.query_.mutable_data_ptr(),
         rows.grad_.mutable_data_ptr(), rows.lse_.mutable_data_ptr<float>(),
         rows.delta_.mutable_data_ptr<float>(), batch.layout.tokens, shape.heads, shape.head_dim},
        stream());
    return rows;
  }

  gpu::ListedRows view() const {
    return {list(),
            query_.const_data_ptr(),
            grad_.const_data_ptr(),
            lse_.const_data_ptr<float>(),
            delta_.const_data_ptr<float>(),
            rows_,
            query_.stride(0)};
  }
  gpu::ListedRows view_of_forward() const {
    gpu::ListedRows rows = view();
    rows.grad_out = nullptr;
    rows.lse = nullptr;
    rows.delta = nullptr;
    return rows;
  }

  int64_t count() const { return count_.item<int32_t>(); }
  at::Tensor tokens() const { return bounds_[0].narrow(0, 0, count()).to(at::kLong); }
  // Query-key pairs.
  double pairs() const {
    const at::Tensor keys = bounds_[2].narrow(0, 0, count()) - bounds_[1].narrow(0, 0, count()) + 1;
    return static_cast<double>(keys.sum(at::kLong).item<int64_t>());
  }

 private:
  Rows(const Batch& batch, int64_t rows)
      : bounds_(filled({3, batch.capacity()}, at::kInt, -7)),
        count_(at::zeros({1}, options(at::kInt))),
        lse_(filled({batch.shape.heads, batch.capacity()}, at::kFloat, kNan)),
        delta_(filled({batch.shape.heads, batch.capacity()}, at::kFloat, kNan)),
        rows_(rows) {}

  gpu::RowList list() const {
    const auto row_of = [&](int i) { return bounds_[i].mutable_data_ptr<int32_t>(); };
    return {row_of(0), row_of(1), row_of(2), count_.mutable_data_ptr<int32_t>()};
  }

  at::Tensor bounds_, count_;
  at::Tensor query_, grad_;  // [rows, Hq, D]
  at::Tensor lse_, delta_;   // [Hq, capacity]
  int64_t rows_;
};

void attend(const Implementation& kernels, const Batch& batch, const Rows& rows,
            const Attended& onto) {
  kernels.attend_rows({rows.view_of_forward(), batch.key_values(), onto.out.mutable_data_ptr(),
                       onto.logsumexp.mutable_data_ptr<float>()},
                      stream());
}

// The same, with the difference that it makes; only `route` replaces what is there.
struct Difference {
  at::Tensor rows;     // [T, Hq, D]
  at::Tensor squares;  // [Hq, T]
};
Difference attend_apart(const Implementation& kernels, const Batch& batch, const Rows& rows,
                        const at::Tensor& route, const Attended& onto) {
  const Difference to{filled(batch.grad.sizes(), at::kBFloat16, kNan),
                      filled({batch.shape.heads, batch.layout.tokens}, at::kFloat, kNan)};
  kernels.attend_rows({rows.view_of_forward(), batch.key_values(), onto.out.mutable_data_ptr(),
                       onto.logsumexp.mutable_data_ptr<float>(), route.const_data_ptr<bool>(),
                       to.rows.mutable_data_ptr(), to.squares.mutable_data_ptr<float>()},
                      stream());
  return to;
}

// What has attended to nothing yet.
Attended nothing(const Batch& batch) {
  return {at::zeros_like(batch.grad),
          filled({batch.shape.heads, batch.layout.tokens}, at::kFloat, -kInfinity)};
}

void key_gradient(const Implementation& kernels, const Batch& batch, const Rows& rows,
                  const Rows* more, const at::Tensor& grad_qkv) {
  kernels.key_gradient({rows.view(), more != nullptr ? more->view() : gpu::ListedRows{},
                        batch.key_values(), batch.shape.keys(grad_qkv).mutable_data_ptr(),
                        batch.shape.values(grad_qkv).mutable_data_ptr(), grad_qkv.stride(0)},
                       stream());
}

void query_gradient(const Implementation& kernels, const Batch& batch, const Rows& rows,
                    GradientMode mode, const at::Tensor& grad_qkv) {
  kernels.query_gradient(
      {rows.view(), batch.key_values(), batch.shape.queries(grad_qkv).mutable_data_ptr(),
       grad_qkv.stride(0), mode == GradientMode::kAdd},
      stream());
}

at::Tensor unwritten_gradient(const Batch& batch) {
  return filled(batch.qkv.sizes(), at::kBFloat16, kNan);
}

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
        judge_(make_attention_backend("reference", at::kCUDA, at::kDouble)) {
    at::manual_seed(11);
  }

  void SetUp() override {
    if (!runs_here(kernels_)) GTEST_SKIP() << "no device for " << kernels_.name;
  }

  // Batches of all windows and documents.
  void for_each_batch(const std::function<void(const Batch&)>& check) const {
    for (const std::vector<int32_t>& starts :
         {std::vector<int32_t>{0, 512}, {0, 1, 131, 387, 900}, fifty_documents()}) {
      int64_t longest = 0;
      for (size_t i = 1; i < starts.size(); ++i) {
        longest = std::max<int64_t>(longest, starts[i] - starts[i - 1]);
      }
      for (const int64_t window :
           {int64_t{1}, int64_t{2}, int64_t{127}, int64_t{128}, int64_t{129}, longest - 1}) {
        SCOPED_TRACE(fmt::format("{} documents, window {}", starts.size() - 1, window));
        Batch batch(GetParam().heads, window, starts);
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

  static void expect_near(const at::Tensor& found, const at::Tensor& expected, const char* what) {
    EXPECT_LE(relative_error(found, expected), kTolerance) << what;
  }

  // `found` in the rows of these tokens.
  static void expect_attended(const Attended& found, const Attended& expected,
                              const at::Tensor& tokens) {
    expect_near(found.out.index_select(0, tokens), expected.out.index_select(0, tokens), "out");
    const at::Tensor error = found.logsumexp.index_select(1, tokens).to(at::kDouble) -
                             expected.logsumexp.index_select(1, tokens);
    EXPECT_TRUE(at::le(error.abs(), kLogsumexpTolerance).all().item<bool>());
  }

  // dK and dV; nothing else is written.
  static void expect_key_gradient(const Batch& batch, const at::Tensor& found,
                                  const at::Tensor& expected) {
    expect_near(batch.shape.keys(found), batch.shape.keys(expected), "dk");
    expect_near(batch.shape.values(found), batch.shape.values(expected), "dv");
    EXPECT_TRUE(batch.shape.queries(found).isnan().all().item<bool>());
  }

  const Implementation& kernels_;
  std::unique_ptr<AttentionBackend> judge_;
};

TEST_P(ListedKernelsTest, AttendsToTheWindowAndToEverything) {
  for_each_batch([&](const Batch& batch) {
    const at::Tensor all = at::arange(batch.layout.tokens, options(at::kLong));
    for (const Band band : {Band::kNear, Band::kFull}) {
      const Attended found = nothing(batch);
      const int64_t window = band == Band::kNear ? batch.shape.window : batch.layout.longest;
      attend(kernels_, batch, Rows::near(batch, window), found);
      expect_attended(found, batch.exact(*judge_, band), all);
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
    expect_attended(found, batch.exact(*judge_, Band::kFull), tokens);
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
      const double error = relative_error(of_rows(difference.rows), of_rows(expected));
      EXPECT_LE(error, kTolerance);
      EXPECT_LE(error, 1.5 * relative_error(of_rows(merged), of_rows(expected)) + 1e-9);
      EXPECT_LE(relative_error(of_rows(difference.squares.t()), of_rows(expected.square().sum(-1))),
                2 * kTolerance);

      // Routed rows are replaced; nothing else is written.
      const at::Tensor routed = rows.tokens().masked_select(of_rows(route));
      expect_attended(found, {before_out + expected, full_logsumexp}, routed);
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
    expect_key_gradient(batch, found, batch.exact_gradient(*judge_, Band::kFar, marked));
  });
}

TEST_P(ListedKernelsTest, KeyGradientOfBothLists) {
  for_each_choice([&](const Batch& batch, const at::Tensor& marked) {
    const at::Tensor found = unwritten_gradient(batch);
    const Rows far = Rows::far(batch, marked);
    key_gradient(kernels_, batch, Rows::near(batch, batch.shape.window), &far, found);
    expect_key_gradient(batch, found,
                        batch.exact_gradient(*judge_, Band::kNear, {}) +
                            batch.exact_gradient(*judge_, Band::kFar, marked));
  });
}

TEST_P(ListedKernelsTest, QueryGradient) {
  for_each_choice([&](const Batch& batch, const at::Tensor& marked) {
    const AttentionShape& shape = batch.shape;
    const Rows far = Rows::far(batch, marked);
    const at::Tensor tokens = far.tokens();
    const at::Tensor expected = shape.queries(batch.exact_gradient(*judge_, Band::kFar, marked));

    // Of the listed rows alone, nothing else being written ...
    const at::Tensor found = unwritten_gradient(batch);
    query_gradient(kernels_, batch, far, GradientMode::kWrite, found);
    expect_near(shape.queries(found).index_select(0, tokens), expected.index_select(0, tokens),
                "far");
    EXPECT_TRUE(shape.queries(found).index_fill(0, tokens, kNan).isnan().all().item<bool>());
    EXPECT_TRUE(shape.keys(found).isnan().all().item<bool>());
    EXPECT_TRUE(shape.values(found).isnan().all().item<bool>());

    // ... and on top of that of all rows.
    query_gradient(kernels_, batch, Rows::near(batch, shape.window), GradientMode::kWrite, found);
    query_gradient(kernels_, batch, far, GradientMode::kAdd, found);
    expect_near(shape.queries(found),
                expected + shape.queries(batch.exact_gradient(*judge_, Band::kNear, {})), "both");
  });
}

TEST_P(ListedKernelsTest, TheSameOperandsGiveTheSameBits) {
  for_each_batch([&](const Batch& batch) {
    const Rows near = Rows::near(batch, batch.shape.window);
    const Rows far = Rows::far(batch, half_of(batch));
    const auto gradients = [&] {
      at::Tensor to = unwritten_gradient(batch);
      key_gradient(kernels_, batch, near, &far, to);
      query_gradient(kernels_, batch, near, GradientMode::kWrite, to);
      query_gradient(kernels_, batch, far, GradientMode::kAdd, to);
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
  EXPECT_NO_THROW(kernels_.attend_rows({{}, none, nullptr, nullptr}, stream()));
  EXPECT_NO_THROW(kernels_.key_gradient({{}, {}, none, nullptr, nullptr, 0}, stream()));
  EXPECT_NO_THROW(kernels_.query_gradient({{}, none, nullptr, 0, false}, stream()));
}

TEST_P(LargeListedKernelsTest, OtherHeadWidthsAreRefused) {
  gpu::KeyValues narrow{};
  narrow.tokens = 64;
  narrow.head_dim = 32;
  EXPECT_ANY_THROW(kernels_.attend_rows({{}, narrow, nullptr, nullptr}, stream()));
  EXPECT_ANY_THROW(kernels_.key_gradient({{}, {}, narrow, nullptr, nullptr, 0}, stream()));
  EXPECT_ANY_THROW(kernels_.query_gradient({{}, narrow, nullptr, 0, false}, stream()));
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
  const auto starts = [](int64_t documents) {
    std::vector<int32_t> all;
    for (int64_t i = 0; i <= documents; ++i) all.push_back(static_cast<int32_t>(i * kLength));
    return all;
  };
  const auto last = [](const at::Tensor& x, int64_t dimension = 0) {
    return x.narrow(dimension, x.size(dimension) - kJudged * kLength, kJudged * kLength);
  };
  Batch batch(kHeads, 1, starts(kDocuments));
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
  {
    const Attended found = nothing(batch);
    attend(kernels_, batch, near, found);
    attend(kernels_, batch, far, found);
    EXPECT_LE(relative_error(last(found.out), end.exact(*judge, Band::kFull).out), kTolerance);
  }
  {
    const Attended found = nothing(batch);
    attend(kernels_, batch, near, found);
    const at::Tensor route = at::zeros({batch.layout.tokens}, options(at::kBool));
    last(route).fill_(true);
    const Difference difference = attend_apart(kernels_, batch, far, route, found);
    const Attended full = end.exact(*judge, Band::kFull);
    EXPECT_LE(relative_error(last(found.out), full.out), kTolerance);
    const at::Tensor expected = full.out - end.exact(*judge, Band::kNear).out;
    const at::Tensor has_far = last(batch.layout.position >= 1).nonzero().flatten();
    const auto of_far = [&](const at::Tensor& x) { return x.index_select(0, has_far); };
    EXPECT_LE(relative_error(of_far(last(difference.rows)), of_far(expected)), kTolerance);
    EXPECT_LE(
        relative_error(of_far(last(difference.squares, 1).t()), of_far(expected.square().sum(-1))),
        2 * kTolerance);
  }
  if (std::string_view(kernels_.name) == "sm90") {
    const at::Tensor route = at::ones({batch.layout.tokens}, options(at::kBool));
    const at::Tensor out = at::empty_like(batch.grad), difference = at::empty_like(batch.grad);
    const at::Tensor statistics =
        at::empty({4, kHeads.query, batch.layout.tokens}, options(at::kFloat));
    const auto statistic = [&](int i) { return statistics[i].mutable_data_ptr<float>(); };
    const at::Tensor query = batch.shape.queries(batch.qkv);
    gpu::attend_branches_sm90(
        {query.const_data_ptr(), query.stride(0), batch.key_values(),
         batch.layout.position.const_data_ptr<int64_t>(), batch.shape.window,
         route.const_data_ptr<bool>(), out.mutable_data_ptr(), difference.mutable_data_ptr(),
         statistic(0), statistic(1), statistic(2), statistic(3),
         at::zeros({1}, options(at::kInt)).mutable_data_ptr<int32_t>()},
        stream());
    const Attended full = end.exact(*judge, Band::kFull);
    EXPECT_LE(relative_error(last(out), full.out), kTolerance);
    EXPECT_LE(relative_error(last(difference), full.out - end.exact(*judge, Band::kNear).out),
              kTolerance);
    EXPECT_LE(relative_error(last(statistics[0], 1), full.logsumexp), 1e-5);
  }
  const at::Tensor expected = end.exact_gradient(*judge, Band::kFull, {});
  const at::Tensor found = unwritten_gradient(batch);
  key_gradient(kernels_, batch, near, &far, found);
  query_gradient(kernels_, batch, near, GradientMode::kWrite, found);
  query_gradient(kernels_, batch, far, GradientMode::kAdd, found);
  const auto expect_part = [&](const auto& part) {
    EXPECT_LE(relative_error(part(last(found)), part(expected)), kTolerance);
  };
  expect_part([&](const at::Tensor& x) { return end.shape.queries(x); });
  expect_part([&](const at::Tensor& x) { return end.shape.keys(x); });
  expect_part([&](const at::Tensor& x) { return end.shape.values(x); });
}

double milliseconds(const std::function<void()>& run) {
  constexpr int kTimes = 20;
  for (int i = 0; i < 3; ++i) run();
  cudaEvent_t begin = nullptr, end = nullptr;
  SWIATTN_CHECK_CUDA(cudaEventCreate(&begin));
  SWIATTN_CHECK_CUDA(cudaEventCreate(&end));
  const auto on = static_cast<cudaStream_t>(stream());
  SWIATTN_CHECK_CUDA(cudaEventRecord(begin, on));
  for (int i = 0; i < kTimes; ++i) run();
  SWIATTN_CHECK_CUDA(cudaEventRecord(end, on));
  SWIATTN_CHECK_CUDA(cudaEventSynchronize(end));
  float elapsed = 0.0F;
  SWIATTN_CHECK_CUDA(cudaEventElapsedTime(&elapsed, begin, end));
  SWIATTN_CHECK_CUDA(cudaEventDestroy(begin));
  SWIATTN_CHECK_CUDA(cudaEventDestroy(end));
  return elapsed / kTimes;
}

// Not judged: what a run may be compared with. Operations of visible pairs only.
TEST_P(LargeListedKernelsTest, PrintsItsRates) {
  constexpr int64_t kTokens = 32768;
  constexpr int64_t kWindow = 1024;
  for (const Heads& heads : {Heads{16, 8, 128}, Heads{32, 8, 64}}) {
    Batch batch(heads, kWindow, {0, static_cast<int32_t>(kTokens)});
    batch.final = {random(batch.grad.sizes()), filled({heads.query, kTokens}, at::kFloat, 12)};
    const Attended attended{random(batch.grad.sizes()),
                            filled({heads.query, kTokens}, at::kFloat, 12)};
    const at::Tensor grad_qkv = at::zeros_like(batch.qkv);
    const auto print = [&](const char* what, const Rows& rows) {
      const auto line = [&](const char* kernel, double factor, const std::function<void()>& run) {
        const double time = milliseconds(run);
        const double operations =
            factor * rows.pairs() * static_cast<double>(heads.query * heads.width);
        fmt::print("{} D {:3} {:<15} {:<4} {:7.3f} ms {:6.1f} TFLOP/s\n", kernels_.name,
                   heads.width, kernel, what, time, operations / time / 1e9);
      };
      line("attend rows", 4, [&] { attend(kernels_, batch, rows, attended); });
      line("key gradient", 8, [&] { key_gradient(kernels_, batch, rows, nullptr, grad_qkv); });
      line("query gradient", 6,
           [&] { query_gradient(kernels_, batch, rows, GradientMode::kAdd, grad_qkv); });
    };
    print("far", Rows::far(batch, at::rand({kTokens}, options(at::kFloat)) < 0.13));
    const at::Tensor route = at::rand({kTokens}, options(at::kFloat)) < 0.13;
    const at::Tensor sampled = route.logical_or(at::rand({kTokens}, options(at::kFloat)) < 0.05);
    const Rows both = Rows::far(batch, sampled);
    const Difference difference{at::empty_like(batch.grad), at::empty_like(attended.logsumexp)};
    const double time = milliseconds([&] {
      kernels_.attend_rows(
          {both.view_of_forward(), batch.key_values(), attended.out.mutable_data_ptr(),
           attended.logsumexp.mutable_data_ptr<float>(), route.const_data_ptr<bool>(),
           difference.rows.mutable_data_ptr(), difference.squares.mutable_data_ptr<float>()},
          stream());
    });
    fmt::print("{} D {:3} {:<15} {:<4} {:7.3f} ms {:6.1f} TFLOP/s\n", kernels_.name, heads.width,
               "with difference", "far", time,
               4 * both.pairs() * static_cast<double>(heads.query * heads.width) / time / 1e9);
    print("near", Rows::near(batch, kWindow));
    print("full", Rows::near(batch, kTokens));
  }
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
