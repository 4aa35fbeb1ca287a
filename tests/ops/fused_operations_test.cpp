// Every fused operation on the GPU in bfloat16. The judge is the reference operation in float64 on
// the same rounded inputs; a fused result may stray at most 1.5 times as far from it as the
// reference operation in bfloat16 does, whose roundings it shares. Widths that the kernels do not
// cover go through the reference and must pass too.
#include "ops/fused_operations.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

namespace swiattn {
namespace {

// An operation's results, in a fixed order.
using Results = std::vector<at::Tensor>;

struct Shape {
  int64_t rows, width;
};

class FusedOperationsTest : public testing::TestWithParam<Shape> {
 protected:
  FusedOperationsTest() { at::manual_seed(5); }

  at::Tensor random(at::IntArrayRef shape) const {
    return at::randn(shape, at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16));
  }
  // Zeroed, in the type that gradients of weights are accumulated in.
  static at::Tensor accumulator(at::IntArrayRef shape, at::ScalarType compute) {
    const auto wide = compute == at::kDouble ? at::kDouble : at::kFloat;
    return at::zeros(shape, at::TensorOptions().device(at::kCUDA).dtype(wide));
  }

  // `run(table, type)` converts its inputs to `type`, calls the table and returns what came out.
  template <class Run>
  static void expect_as_exact_as_the_reference(const Run& run) {
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

  const int64_t rows_ = GetParam().rows;
  const int64_t width_ = GetParam().width;
};

TEST_P(FusedOperationsTest, RmsNorm) {
  const at::Tensor x = random({rows_, width_}), delta = random({rows_, width_}),
                   weight = random({width_}), grad_normed = random({rows_, width_}),
                   grad_residual = random({rows_, width_});
  for (const bool first : {false, true}) {  // the first norm of a model adds nothing
    expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
      const at::Tensor none;
      const RmsNormOutput out =
          ops.rms_norm_forward(x.to(type), first ? none : delta.to(type), weight.to(type), 1e-5);
      const at::Tensor grad_weight = accumulator({width_}, type);
      // The backward's own inputs are the same for all, so that it alone is judged.
      const at::Tensor residual = (first ? x : x + delta).to(type);
      const auto wide = grad_weight.scalar_type();
      const at::Tensor inverse =
          (residual.to(at::kDouble).square().mean(-1) + 1e-5).rsqrt().to(wide);
      const at::Tensor grad_x =
          ops.rms_norm_backward(grad_normed.to(type), first ? none : grad_residual.to(type),
                                residual, weight.to(type), inverse, grad_weight);
      return {out.residual, out.normed, out.inverse_rms, grad_x, grad_weight};
    });
  }
}

TEST_P(FusedOperationsTest, Router) {
  const at::Tensor hidden = random({rows_, width_}), before = random({rows_, width_});
  const at::Tensor weight = at::randn({width_}, hidden.options().dtype(at::kFloat));
  const at::Tensor grad = at::randn({rows_}, weight.options());
  expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
    const at::Tensor grad_weight = accumulator({width_}, type);
    const auto wide = grad_weight.scalar_type();
    const at::Tensor grad_hidden = before.to(type, false, true);
    ops.router_backward(grad.to(wide), hidden.to(type), weight.to(wide), grad_hidden, grad_weight);
    return {ops.router_forward(hidden.to(type), weight.to(wide)), grad_hidden, grad_weight};
  });
}

TEST_P(FusedOperationsTest, Swiglu) {
  const at::Tensor gate_up = random({rows_, 2 * width_}), grad = random({rows_, width_});
  expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
    return {ops.swiglu_forward(gate_up.to(type)),
            ops.swiglu_backward(grad.to(type), gate_up.to(type))};
  });
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
  expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
    const at::Tensor grad_weight = accumulator({out_width, width_}, type);
    const at::Tensor grad_bias = accumulator({out_width}, type);
    Results results;
    for (int micro_batch = 0; micro_batch < 2; ++micro_batch) {
      results.assign({ops.linear_backward(grad.to(type), x.to(type), weight.to(type), grad_weight,
                                          grad_bias)});
    }
    results.insert(results.end(), {grad_weight, grad_bias});
    return results;
  });
}

TEST_P(FusedOperationsTest, LinearCrossEntropy) {
  for (const int64_t vocabulary : {37, 1000, 49152}) {
    const at::Tensor hidden = random({rows_, width_});
    const at::Tensor weight = random({vocabulary, width_}) / std::sqrt(1.0 * width_);
    at::Tensor targets = at::randint(vocabulary, {rows_}, hidden.options().dtype(at::kLong));
    if (rows_ > 2) targets.narrow(0, 1, 1).fill_(-1);
    expect_as_exact_as_the_reference([&](const Operations& ops, at::ScalarType type) -> Results {
      const at::Tensor grad_weight = accumulator({vocabulary, width_}, type);
      const auto out = ops.linear_cross_entropy_train(hidden.to(type), weight.to(type), targets,
                                                      grad_weight, {});
      return {ops.linear_cross_entropy_forward(hidden.to(type), weight.to(type), targets), out.nll,
              out.grad_hidden, grad_weight};
    });
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
