// Every fused operation on the GPU in bfloat16. The judge is the reference operation in float64 on
// the same rounded inputs; a fused result may stray at most 1.5 times as far from it as the
// reference operation in bfloat16 does, whose roundings it shares. Widths that the kernels do not
// cover go through the reference and must pass too.
#include "ops/fused_operations.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "ops/gpu_kernels.h"
#include "parallel/gpu_stream.h"

namespace swiattn {
namespace {

// An operation's results, in a fixed order.
using Results = std::vector<at::Tensor>;

struct Shape {
  int64_t rows, width;
};

at::Tensor random(at::IntArrayRef shape) {
  return at::randn(shape, at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16));
}

// A gradient in the type in which those of weights are accumulated: written over NaN, or added to
// ones.
GradientTarget accumulator(at::IntArrayRef shape, at::ScalarType compute, GradientSum sum) {
  const auto wide = compute == at::kDouble ? at::kDouble : at::kFloat;
  const double before = sum == GradientSum::kWrite ? std::nan("") : 1.0;
  return {at::full(shape, before, at::TensorOptions().device(at::kCUDA).dtype(wide)), sum};
}

// `run(table, type)` converts its inputs to `type`, calls the table and returns what came out.
template <class Run>
void expect_as_exact_as_the_reference(const Run& run) {
  const Results judge = run(reference_operations(), at::kDouble);
  const Results reference = run(reference_operations(), at::kBFloat16);
  const Results fused = run(fused_operations(), at::kBFloat16);
  ASSERT_EQ(fused.size(), judge.size());
  for (size_t i = 0; i < judge.size(); ++i) {
    ASSERT_EQ(fused[i].sizes(), judge[i].sizes()) << "result " << i;
    EXPECT_EQ(fused[i].scalar_type(), reference[i].scalar_type()) << "result " << i;
    const auto error = [&](const at::Tensor& x) {
      return (x.to(at::kDouble) - judge[i]).norm().template item<double>();
    };
    const double floor = 1e-6 * judge[i].norm().item<double>();  // float32 sums in another order
    EXPECT_LE(error(fused[i]), 1.5 * error(reference[i]) + floor) << "result " << i;
  }
}

class FusedOperationsTest : public testing::TestWithParam<Shape> {
 protected:
  FusedOperationsTest() { at::manual_seed(5); }

  const int64_t rows_ = GetParam().rows;
  const int64_t width_ = GetParam().width;
};

// Widths of one and of two vectors a thread, from one warp to sixteen; rows that blocks share and
// rows that they do not.
class FusedNormTest : public FusedOperationsTest {};

TEST_P(FusedNormTest, RmsNorm) {
  const at::Tensor x = random({rows_, width_}), weight = random({width_}),
                   grad_normed = random({rows_, width_}), grad_residual = random({rows_, width_});
  for (const bool last : {false, true}) {  // nothing else reads what a model's last norm does
    for (const GradientSum sum : {GradientSum::kWrite, GradientSum::kAdd}) {
      expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
        const RmsNormOutput out = ops.rms_norm_forward(x.to(type), weight.to(type), 1e-5);
        const GradientTarget grad_weight = accumulator({width_}, type, sum);
        // The backward's own inputs are the same for all, so that it alone is judged.
        const at::Tensor inverse = (x.to(at::kDouble).square().mean(-1) + 1e-5)
                                       .rsqrt()
                                       .to(grad_weight.tensor.scalar_type());
        const at::Tensor grad_x = ops.rms_norm_backward(
            grad_normed.to(type), last ? at::Tensor() : grad_residual.to(type), x.to(type),
            weight.to(type), inverse, grad_weight);
        return {out.normed, out.inverse_rms, grad_x, grad_weight.tensor};
      });
    }
  }
}

TEST_P(FusedNormTest, NormWithRouter) {
  const at::Tensor x = random({rows_, width_}), weight = random({width_}),
                   grad_normed = random({rows_, width_}), grad_residual = random({rows_, width_});
  const at::Tensor router = at::randn({1, width_}, x.options().dtype(at::kFloat));
  const at::Tensor grad_logits = at::randn({rows_}, router.options());
  for (const GradientSum sum : {GradientSum::kWrite, GradientSum::kAdd}) {
    expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
      const auto wide = type == at::kDouble ? at::kDouble : at::kFloat;
      const RoutedNormOutput out =
          ops.routed_norm_forward(x.to(type), weight.to(type), 1e-5, router.to(wide));
      // As a layer has them, rounded: the same for all.
      RmsNormOutput saved;
      saved.inverse_rms = (x.to(at::kDouble).square().mean(-1) + 1e-5).rsqrt().to(wide);
      const at::Tensor unit =
          (x.to(at::kDouble) * saved.inverse_rms.to(at::kFloat).to(at::kDouble).unsqueeze(-1))
              .to(at::kBFloat16);
      saved.normed = (unit * weight).to(type);
      const GradientTarget grad_weight = accumulator({width_}, type, sum);
      const GradientTarget grad_router = accumulator({1, width_}, type, sum);
      const at::Tensor grad_x = ops.routed_norm_backward(
          grad_normed.to(type), grad_logits.to(wide), grad_residual.to(type), x.to(type), saved,
          weight.to(type), router.to(wide), grad_weight, grad_router);
      return {out.norm.normed, out.norm.inverse_rms, out.logits,
              grad_x,          grad_weight.tensor,   grad_router.tensor};
    });
  }
}

// The logits are those of the rounded rows that the forward gives out, as everywhere else.
TEST_P(FusedNormTest, LogitsAreTheDotProductsOfTheNormedRows) {
  const at::Tensor x = random({rows_, width_}), weight = random({width_});
  const at::Tensor router = at::randn({1, width_}, x.options().dtype(at::kFloat));
  const RoutedNormOutput out = fused_operations().routed_norm_forward(x, weight, 1e-5, router);
  const RmsNormOutput plain = fused_operations().rms_norm_forward(x, weight, 1e-5);
  EXPECT_TRUE(at::equal(out.norm.normed, plain.normed));
  EXPECT_TRUE(at::equal(out.norm.inverse_rms, plain.inverse_rms));
  const at::Tensor products = out.norm.normed.to(at::kDouble) * router.to(at::kDouble);
  const at::Tensor error = (out.logits.to(at::kDouble) - products.sum(-1)).abs();
  EXPECT_TRUE(at::le(error, 1e-6 * products.abs().sum(-1)).all().item<bool>())
      << error.max().item<double>();
}

TEST_P(FusedNormTest, BackwardRepeatsItsBits) {
  const at::Tensor x = random({rows_, width_}), weight = random({width_}),
                   grad = random({rows_, width_});
  const at::Tensor router = at::randn({1, width_}, x.options().dtype(at::kFloat));
  const at::Tensor grad_logits = at::randn({rows_}, router.options());
  const RmsNormOutput saved = fused_operations().rms_norm_forward(x, weight, 1e-5);
  const auto run = [&]() -> Results {
    const auto grad_weight = accumulator({width_}, at::kBFloat16, GradientSum::kWrite);
    const auto grad_router = accumulator({1, width_}, at::kBFloat16, GradientSum::kWrite);
    const at::Tensor grad_x = fused_operations().routed_norm_backward(
        grad, grad_logits, x, x, saved, weight, router, grad_weight, grad_router);
    return {grad_x, grad_weight.tensor, grad_router.tensor};
  };
  const Results first = run();
  for (int again = 0; again < 3; ++again) {
    const Results found = run();
    for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(at::equal(found[i], first[i])) << i;
  }
}

TEST_P(FusedNormTest, FrozenWeightsHaveNoGradient) {
  const at::Tensor x = random({rows_, width_}), weight = random({width_}),
                   grad = random({rows_, width_});
  const at::Tensor router = at::randn({1, width_}, x.options().dtype(at::kFloat));
  const at::Tensor grad_logits = at::randn({rows_}, router.options());
  const Operations& ops = fused_operations();
  const RmsNormOutput saved = ops.rms_norm_forward(x, weight, 1e-5);
  const auto target = accumulator({width_}, at::kBFloat16, GradientSum::kWrite);
  EXPECT_TRUE(at::equal(ops.rms_norm_backward(grad, x, x, weight, saved.inverse_rms, {}),
                        ops.rms_norm_backward(grad, x, x, weight, saved.inverse_rms, target)));
  EXPECT_TRUE(at::equal(
      ops.routed_norm_backward(grad, grad_logits, x, x, saved, weight, router, {}, {}),
      ops.routed_norm_backward(grad, grad_logits, x, x, saved, weight, router, target, {})));
}

INSTANTIATE_TEST_SUITE_P(All, FusedNormTest,
                         testing::Values(Shape{1, 8}, Shape{3, 64}, Shape{10007, 128},
                                         Shape{129, 264}, Shape{3001, 576}, Shape{257, 1000},
                                         Shape{1, 2048}, Shape{1500, 2048}, Shape{37, 2056},
                                         Shape{900, 4096}, Shape{65, 5632}, Shape{600, 8192},
                                         Shape{5, 8200}, Shape{65, 100}),
                         [](const auto& info) {
                           return fmt::format("{}x{}", info.param.rows, info.param.width);
                         });

struct HeadShape {
  int64_t tokens, heads, head_dim;
};

// A head before and two behind the ones that are worked on, in a packed projection.
class FusedHeadNormTest : public testing::TestWithParam<HeadShape> {
 protected:
  FusedHeadNormTest() { at::manual_seed(5); }

  at::Tensor random_projection() const { return random({tokens_, (heads_ + 3) * head_dim_}); }
  at::Tensor heads_of(const at::Tensor& packed) const {
    return packed.narrow(1, head_dim_, heads_ * head_dim_).unflatten(1, {heads_, head_dim_});
  }
  RotaryTable table(at::ScalarType type) const {
    std::vector<double> frequencies;
    for (int64_t i = 0; i < head_dim_ / 2; ++i) frequencies.push_back(std::pow(1e4, -0.1 * i));
    const auto options = at::TensorOptions().device(at::kCUDA).dtype(at::kInt);
    return make_rotary_table(at::arange(tokens_, options).remainder(777), frequencies, 1.1, type);
  }

  const int64_t tokens_ = GetParam().tokens;
  const int64_t heads_ = GetParam().heads;
  const int64_t head_dim_ = GetParam().head_dim;
};

TEST_P(FusedHeadNormTest, WorksInPlaceOnViewsOfThePackedProjection) {
  const at::Tensor packed = random_projection(), weight = random({head_dim_}),
                   packed_grad = random_projection();
  for (const GradientSum sum : {GradientSum::kWrite, GradientSum::kAdd}) {
    expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
      const at::Tensor x = packed.to(type, false, true), grad = packed_grad.to(type, false, true);
      const at::Tensor before =
          ops.head_norm_forward(heads_of(x), weight.to(type), 1e-5, table(type));
      const GradientTarget grad_weight = accumulator({head_dim_}, type, sum);
      ops.head_norm_backward(heads_of(grad), before, weight.to(type), 1e-5, table(type),
                             grad_weight);
      return {x, before, grad, grad_weight.tensor};
    });
  }
}

TEST_P(FusedHeadNormTest, KeepsTheRowsAsTheyWereAndTouchesNoOthers) {
  const Operations& ops = fused_operations();
  const at::Tensor packed = random_projection(), weight = random({head_dim_});
  const at::Tensor x = packed.clone();
  const at::Tensor before = ops.head_norm_forward(heads_of(x), weight, 1e-5, table(at::kBFloat16));
  EXPECT_TRUE(at::equal(before, heads_of(packed)));
  EXPECT_TRUE(before.is_contiguous());
  const at::Tensor grad = packed.clone();
  ops.head_norm_backward(heads_of(grad), before, weight, 1e-5, table(at::kBFloat16), {});
  EXPECT_TRUE(at::equal(before, heads_of(packed)));
  for (const at::Tensor& changed : {x, grad}) {
    heads_of(changed).copy_(before);
    EXPECT_TRUE(at::equal(changed, packed));
  }
}

TEST_P(FusedHeadNormTest, RepeatsItsBitsAndFrozenWeightsHaveNoGradient) {
  const at::Tensor before = random({tokens_, heads_, head_dim_}), weight = random({head_dim_}),
                   packed_grad = random_projection();
  const auto run = [&](const GradientTarget& grad_weight) {
    at::Tensor grad = packed_grad.clone();
    fused_operations().head_norm_backward(heads_of(grad), before, weight, 1e-5,
                                          table(at::kBFloat16), grad_weight);
    return grad;
  };
  const auto first = accumulator({head_dim_}, at::kBFloat16, GradientSum::kWrite);
  const at::Tensor expected = run(first);
  for (int again = 0; again < 3; ++again) {
    const auto target = accumulator({head_dim_}, at::kBFloat16, GradientSum::kWrite);
    EXPECT_TRUE(at::equal(run(target), expected));
    EXPECT_TRUE(at::equal(target.tensor, first.tensor));
  }
  EXPECT_TRUE(at::equal(run({}), expected));
}

// Threads a row from one to 32, whole and not; rows that fill their block and rows that do not;
// blocks that take many rows. The last two fall back.
INSTANTIATE_TEST_SUITE_P(All, FusedHeadNormTest,
                         testing::Values(HeadShape{1, 1, 64}, HeadShape{1, 8, 128},
                                         HeadShape{37, 3, 96}, HeadShape{129, 1, 128},
                                         HeadShape{1000, 16, 64}, HeadShape{4099, 16, 128},
                                         HeadShape{2053, 7, 96}, HeadShape{515, 2, 256},
                                         HeadShape{77, 5, 16}, HeadShape{130, 3, 48},
                                         HeadShape{33, 2, 512}, HeadShape{21, 2, 320},
                                         HeadShape{65, 3, 72}, HeadShape{9, 2, 528}),
                         [](const auto& info) {
                           const HeadShape& s = info.param;
                           return fmt::format("{}x{}x{}", s.tokens, s.heads, s.head_dim);
                         });

// Threads behind the last row have nothing to divide by.
TEST(FusedHeadNormWithoutEps, IsThatOfTheRowsThatAreThere) {
  constexpr int64_t kTokens = 37, kHeads = 3, kWidth = 128;
  const at::Tensor packed = random({kTokens, kHeads, kWidth}), weight = random({kWidth}),
                   packed_grad = random({kTokens, kHeads, kWidth});
  const at::Tensor angles = random({kTokens, kWidth / 2}).to(at::kFloat);
  expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
    const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
    const RotaryTable table{angles.cos().to(wide), angles.sin().to(wide)};
    const at::Tensor x = packed.to(type, false, true), grad = packed_grad.to(type, false, true);
    const at::Tensor before = ops.head_norm_forward(x, weight.to(type), 0.0, table);
    const GradientTarget grad_weight = accumulator({kWidth}, type, GradientSum::kWrite);
    ops.head_norm_backward(grad, before, weight.to(type), 0.0, table, grad_weight);
    return {x, grad, grad_weight.tensor};
  });
}

// Nothing to do, but a gradient that is replaced has to be there.
TEST(FusedHeadNormOfNoTokens, LeavesAGradientOfZeros) {
  const auto wide = at::TensorOptions().device(at::kCUDA).dtype(at::kFloat);
  const RotaryTable table{at::empty({0, 32}, wide), at::empty({0, 32}, wide)};
  const at::Tensor weight = random({64}), x = random({0, 2, 64});
  const at::Tensor before = fused_operations().head_norm_forward(x, weight, 1e-5, table);
  EXPECT_EQ(before.sizes(), x.sizes());
  const auto target = accumulator({64}, at::kBFloat16, GradientSum::kWrite);
  fused_operations().head_norm_backward(x, before, weight, 1e-5, table, target);
  EXPECT_TRUE(at::equal(target.tensor, at::zeros_like(target.tensor)));
}

// Few ids, so that one has many tokens; and of a vocabulary in which most have none.
TEST_P(FusedOperationsTest, Embedding) {
  for (const int64_t vocabulary : {1, 3, 5000}) {
    const at::Tensor grad = random({rows_, width_});
    const at::Tensor ids = at::randint(vocabulary, {rows_}, grad.options().dtype(at::kLong));
    for (const GradientSum sum : {GradientSum::kWrite, GradientSum::kAdd}) {
      expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
        const GradientTarget table = accumulator({vocabulary, width_}, type, sum);
        ops.embedding_backward(grad.to(type), ids, table);
        return {table.tensor};
      });
    }
    const GradientTarget once = accumulator({vocabulary, width_}, at::kBFloat16, GradientSum::kAdd);
    fused::embedding_backward(grad, ids, once);
    for (int repeat = 0; repeat < 20; ++repeat) {
      const GradientTarget again =
          accumulator({vocabulary, width_}, at::kBFloat16, GradientSum::kAdd);
      fused::embedding_backward(grad, ids, again);
      EXPECT_TRUE(at::equal(again.tensor, once.tensor));
    }
  }
}

// Ids whose tokens end with a part of the sum and behind it, that have several parts and very many,
// the last one to the end; in rows that a block takes at once and in wider ones.
TEST(FusedEmbedding, SumsIdsOfManyTokensInParts) {
  const std::vector<int64_t> tokens = {64, 64, 1, 63, 128, 65, 3, 2300, 128};
  std::vector<at::Tensor> ids;
  for (size_t id = 0; id < tokens.size(); ++id) {
    ids.push_back(at::full({tokens[id]}, static_cast<int64_t>(id), at::kLong));
  }
  at::Tensor all = at::cat(ids);
  ASSERT_EQ(all.numel() % 64, 0);
  all = all.index_select(0, at::randperm(all.numel())).to(at::kCUDA);
  for (const int64_t width : {72, 2056}) {
    const at::Tensor grad = random({all.numel(), width});
    for (const GradientSum sum : {GradientSum::kWrite, GradientSum::kAdd}) {
      expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
        const GradientTarget table = accumulator({12, width}, type, sum);
        ops.embedding_backward(grad.to(type), all, table);
        return {table.tensor};
      });
    }
  }
}

TEST(FusedEmbedding, OfNoTokensLeavesAGradientOfZeros) {
  const at::Tensor grad = random({0, 64});
  const auto table = accumulator({7, 64}, at::kBFloat16, GradientSum::kWrite);
  fused_operations().embedding_backward(grad, at::empty({0}, grad.options().dtype(at::kLong)),
                                        table);
  EXPECT_TRUE(at::equal(table.tensor, at::zeros_like(table.tensor)));
}

TEST_P(FusedOperationsTest, Swiglu) {
  const at::Tensor gate_up = random({rows_, 2 * width_}), grad = random({rows_, width_});
  expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
    // The backward may write its results over its operands.
    const SwigluGradients gradients =
        ops.swiglu_backward(grad.to(type).clone(), gate_up.to(type).clone());
    return {ops.swiglu_forward(gate_up.to(type)), gradients.gate_up, gradients.activated};
  });
  const at::Tensor activated = fused_operations().swiglu_forward(gate_up);
  EXPECT_TRUE(at::equal(fused_operations().swiglu_backward(grad, gate_up).activated, activated));
}

TEST_P(FusedOperationsTest, RotaryOnAViewOfThePackedProjection) {
  const int64_t head_dim = width_ % 128 == 0 ? 128 : (width_ % 64 == 0 ? 64 : 12);
  const int64_t heads = 3;
  const at::Tensor packed = random({rows_, (heads + 2) * head_dim});
  const at::Tensor positions = at::arange(rows_, packed.options().dtype(at::kInt));
  std::vector<double> frequencies;
  for (int64_t i = 0; i < head_dim / 2; ++i) frequencies.push_back(std::pow(1e4, -0.1 * i));
  for (const auto direction : {RotaryDirection::kForward, RotaryDirection::kBackward}) {
    expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
      const RotaryTable table = make_rotary_table(positions, frequencies, 1.1, type);
      const at::Tensor turned = packed.to(type, false, true);
      ops.apply_rotary(turned.narrow(1, 0, heads * head_dim).unflatten(1, {heads, head_dim}), table,
                       direction);
      return {turned};
    });
  }
}

TEST_P(FusedOperationsTest, LinearAccumulatesItsWeightGradientInFloat32) {
  const int64_t out_width = 40;
  const at::Tensor x = random({rows_, width_}), weight = random({out_width, width_}),
                   grad = random({rows_, out_width});
  for (const GradientSum sum : {GradientSum::kWrite, GradientSum::kAdd}) {
    expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
      GradientTarget grad_weight = accumulator({out_width, width_}, type, sum);
      GradientTarget grad_bias = accumulator({out_width}, type, sum);
      GradientTarget half = accumulator({out_width, width_}, type, sum);
      Results results;
      for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
        results.assign({ops.linear_backward(grad.to(type), x.to(type), weight.to(type), grad_weight,
                                            grad_bias),
                        ops.linear_input_gradient(grad.to(type), weight.to(type))});
        ops.linear_weight_gradient(grad.to(type), x.to(type), half);
        grad_weight.sum = grad_bias.sum = half.sum = GradientSum::kAdd;
      }
      results.insert(results.end(), {grad_weight.tensor, grad_bias.tensor, half.tensor});
      return results;
    });
  }
}

TEST_P(FusedOperationsTest, LinearAddsToTheStream) {
  const at::Tensor stream = random({rows_, 40}), x = random({rows_, width_}),
                   weight = random({40, width_});
  expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
    return {ops.linear_add(stream.to(type), x.to(type), weight.to(type))};
  });
}

// The kernel alone, on the logits of cuBLAS or of anybody. Vocabularies that fours of logits fill
// and one that they do not.
TEST(CrossEntropyKernelTest, IsThatOfFloat64OnTheSameLogits) {
  at::manual_seed(5);
  constexpr int64_t kRows = 5;
  const auto wide = at::TensorOptions().device(at::kCUDA).dtype(at::kFloat);
  for (const int64_t vocabulary : {37, 1000, 49152}) {
    const at::Tensor logits = at::randn({kRows, vocabulary}, wide) * 3;
    const at::Tensor targets = at::randint(vocabulary, {kRows}, wide.dtype(at::kLong));
    targets[1] = -1;
    const at::Tensor nll = at::full({kRows}, std::nan(""), wide);
    const at::Tensor grad = at::full({kRows, vocabulary}, std::nan(""), wide.dtype(at::kBFloat16));
    gpu::cross_entropy(logits.const_data_ptr<float>(), targets.const_data_ptr<int64_t>(),
                       nll.mutable_data_ptr<float>(), grad.mutable_data_ptr(), kRows, vocabulary,
                       current_stream());
    const at::Tensor counted = (targets >= 0).to(at::kDouble);
    const at::Tensor target = targets.clamp_min(0).unsqueeze(1);
    const at::Tensor log_p = at::log_softmax(logits.to(at::kDouble), 1);
    const at::Tensor expected_nll = -log_p.gather(1, target).squeeze(1) * counted;
    EXPECT_LT((nll - expected_nll).abs().max().item<double>(), 1e-5) << vocabulary;
    const at::Tensor p = log_p.exp();
    const at::Tensor expected = p.scatter_add(1, target, at::full_like(target, -1, p.options()));
    // Half a step of bfloat16, and the rounding of float32 where a target's 1 is taken off.
    const at::Tensor allowed = expected.abs() / 256 + 1e-6;
    const at::Tensor error = (grad - expected * counted.unsqueeze(1)).abs();
    EXPECT_TRUE(at::le(error, allowed).all().item<bool>()) << vocabulary;
  }
}

void expect_exact_cross_entropy(Shape shape, int64_t vocabulary) {
  const at::Tensor hidden = random({shape.rows, shape.width});
  const at::Tensor weight = random({vocabulary, shape.width}) / std::sqrt(1.0 * shape.width);
  at::Tensor targets = at::randint(vocabulary, {shape.rows}, hidden.options().dtype(at::kLong));
  if (shape.rows > 2) targets.narrow(0, 1, 1).fill_(-1);
  for (const GradientSum sum : {GradientSum::kWrite, GradientSum::kAdd}) {
    expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
      const GradientTarget grad_weight = accumulator({vocabulary, shape.width}, type, sum);
      const auto out = ops.linear_cross_entropy_train(hidden.to(type), weight.to(type), targets,
                                                      grad_weight, {});
      return {ops.linear_cross_entropy_forward(hidden.to(type), weight.to(type), targets), out.nll,
              out.grad_hidden, grad_weight.tensor};
    });
  }
}

TEST_P(FusedOperationsTest, LinearCrossEntropy) {
  for (const int64_t vocabulary : {37, 1000, 49152}) {
    expect_exact_cross_entropy(GetParam(), vocabulary);
  }
}

TEST(FusedCrossEntropyTest, SumsTheGradientsOfSeveralGroupsOfRows) {
  at::manual_seed(5);
  constexpr int64_t kVocabulary = 152'000;
  const CrossEntropyRows at_once = fused_cross_entropy_rows(kVocabulary);
  EXPECT_EQ(at_once.logits, 384);
  EXPECT_EQ(at_once.gradients, 5 * at_once.logits);
  expect_exact_cross_entropy({at_once.gradients + at_once.logits + 1, 64}, kVocabulary);
}

// The kernel's numbers are judged in routing_kernels_test.cpp; this is the way to it.
TEST_P(FusedOperationsTest, Routing) {
  const auto wide = at::TensorOptions().device(at::kCUDA).dtype(at::kFloat);
  RoutedTokens tokens;
  tokens.position = at::arange(rows_, wide.dtype(at::kLong)).remainder(777);
  tokens.counted = at::rand({rows_}, wide) < 0.8;
  tokens.logits = at::randn({rows_}, wide) * 3;
  tokens.route = tokens.logits > 0;
  tokens.disagreement = at::randn({rows_}, wide).square();
  tokens.window = 100;
  const at::Tensor nll = at::randn({rows_}, wide).abs(), grad_gate = at::randn({rows_}, wide);
  const at::Tensor expected =
      at::full({RoutingStatistics::kColumns}, std::nan(""), wide.dtype(at::kDouble));
  const at::Tensor found = expected.clone();
  const auto expect_close = [](const at::Tensor& a, const at::Tensor& b) {
    EXPECT_TRUE(at::allclose(a, b, 1e-5, 1e-6)) << (a - b).abs().max().item<double>();
  };
  for (const GammaCoefficients& gamma :
       {GammaCoefficients{0.3, 0.1, 1.0, 2.0, false}, GammaCoefficients{0.3, 0.1, 1.0, 2.0, true},
        GammaCoefficients{}}) {
    const RouterObjective objective{gamma, nll, 22};
    for (const at::Tensor& weight : {at::Tensor(), 5 * at::rand({rows_}, wide)}) {
      tokens.weight = weight;
      expect_close(fused_operations().router_gradient(tokens, objective, grad_gate, found),
                   reference_operations().router_gradient(tokens, objective, grad_gate, expected));
      expect_close(found, expected);
    }
  }
  for (const BranchTaken taken : {BranchTaken::kRouted, BranchTaken::kFull, BranchTaken::kWindow}) {
    tokens.taken = taken;
    if (taken != BranchTaken::kRouted)
      tokens.route = tokens.logits = tokens.disagreement = at::Tensor();
    fused_operations().count_routing(tokens, found);
    reference_operations().count_routing(tokens, expected);
    expect_close(found, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(All, FusedOperationsTest,
                         testing::Values(Shape{1, 64}, Shape{3, 8}, Shape{129, 72},
                                         Shape{1000, 576}, Shape{257, 2048}, Shape{64, 5632},
                                         Shape{65, 100}),
                         [](const auto& info) {
                           return fmt::format("{}x{}", info.param.rows, info.param.width);
                         });

}  // namespace
}  // namespace swiattn
