// Times what memory bounds of a training step on one GPU, operation by operation, beside a copy of
// the same device: norms, rotary positions, SwiGLU, cross entropy, the embedding's and the router's
// gradient, the norm of all gradients, AdamW.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "benchmarks/gpu_time.h"
#include "ops/fused_operations.h"
#include "ops/gpu_kernels.h"
#include "optim/adamw.h"
#include "optim/gradient_norm.h"
#include "parallel/gpu_stream.h"

namespace swiattn {
namespace {

constexpr int kRuns = 10;

struct Shape {
  int64_t tokens = 32768;
  int64_t width = 2048;
  int64_t heads = 16;
  int64_t kv_heads = 8;
  int64_t head_dim = 128;
  int64_t ffn = 5632;
  int64_t vocabulary = 32000;
};

const Operations& ops() { return fused_operations(); }
at::TensorOptions options(at::ScalarType type) {
  return at::TensorOptions().device(at::kCUDA).dtype(type);
}
at::Tensor random(at::IntArrayRef shape) { return at::randn(shape, options(at::kBFloat16)); }
GradientTarget gradient(at::IntArrayRef shape) {
  return {at::zeros(shape, options(at::kFloat)), GradientSum::kWrite};
}

// GB/s of a device copy of a gigabyte, read and written.
double copy_rate() {
  static const double rate = [] {
    const at::Tensor from = at::zeros({1 << 28}, options(at::kFloat));
    const at::Tensor to = at::empty_like(from);
    const auto copy = [&] { to.copy_(from); };
    return 2e-3 * static_cast<double>(from.nbytes()) / median_microseconds(kRuns, copy);
  }();
  return rate;
}

// Prints what `run` takes, given the bytes that it cannot avoid to read and write.
void print_bandwidth(const std::string& name, double bytes, const std::function<void()>& run) {
  const double microseconds = median_microseconds(kRuns, run);
  const double rate = 1e-3 * bytes / microseconds;
  fmt::print("{:40} {:8.1f} us {:7.0f} GB/s {:5.2f} of a copy\n", name, microseconds, rate,
             rate / copy_rate());
}

// 4 bytes an element forward, 8 backward.
void time_norms(const Shape& s) {
  const at::Tensor x = random({s.tokens, s.width}), grad = random({s.tokens, s.width}),
                   grad_residual = random({s.tokens, s.width});
  const at::Tensor weight = random({s.width});
  const double bytes = 4.0 * static_cast<double>(x.numel());
  print_bandwidth("RMSNorm, forward", bytes, [&] { ops().rms_norm_forward(x, weight, 1e-5); });
  const RmsNormOutput saved = ops().rms_norm_forward(x, weight, 1e-5);
  const GradientTarget grad_weight = gradient({s.width});
  print_bandwidth("RMSNorm, backward", 2 * bytes, [&] {
    ops().rms_norm_backward(grad, grad_residual, x, weight, saved.inverse_rms, grad_weight);
  });
  const at::Tensor router = at::randn({1, s.width}, options(at::kFloat));
  const at::Tensor grad_logits = at::randn({s.tokens}, options(at::kFloat));
  const GradientTarget grad_router = gradient({1, s.width});
  print_bandwidth("RMSNorm with router, forward", bytes,
                  [&] { ops().routed_norm_forward(x, weight, 1e-5, router); });
  print_bandwidth("RMSNorm with router, backward", 2 * bytes, [&] {
    ops().routed_norm_backward(grad, grad_logits, grad_residual, x, saved, weight, router,
                               grad_weight, grad_router);
  });
}

// Queries and keys in the packed projection: 4 bytes an element turned; 6 normalised, too, since
// the forward keeps a copy and the backward reads it. Beside that each token's angles.
void time_heads(const Shape& s) {
  const int64_t heads = s.heads + s.kv_heads;
  const at::Tensor packed = random({s.tokens, heads + s.kv_heads, s.head_dim});
  const at::Tensor x = packed.narrow(1, 0, heads);
  const RotaryTable table{at::rand({s.tokens, s.head_dim / 2}, options(at::kFloat)),
                          at::rand({s.tokens, s.head_dim / 2}, options(at::kFloat))};
  const auto elements = static_cast<double>(x.numel());
  const double angles = 8.0 * static_cast<double>(table.cosine.numel());
  print_bandwidth("rotary positions", 4 * elements + angles,
                  [&] { ops().apply_rotary(x, table, RotaryDirection::kForward); });
  const at::Tensor weight = random({s.head_dim});
  print_bandwidth("norm of heads, forward", 6 * elements + angles,
                  [&] { ops().head_norm_forward(x, weight, 1e-5, table); });
  const at::Tensor before = ops().head_norm_forward(x, weight, 1e-5, table);
  const GradientTarget grad_weight = gradient({s.head_dim});
  print_bandwidth("norm of heads, backward", 6 * elements + angles,
                  [&] { ops().head_norm_backward(x, before, weight, 1e-5, table, grad_weight); });
}

// 3 and 6 times tokens x FFN in bfloat16.
void time_swiglu(const Shape& s) {
  const at::Tensor gate_up = random({s.tokens, 2 * s.ffn}), grad = random({s.tokens, s.ffn});
  const double bytes = 2.0 * static_cast<double>(grad.numel());
  print_bandwidth("SwiGLU, forward", 3 * bytes, [&] { ops().swiglu_forward(gate_up); });
  print_bandwidth("SwiGLU, backward", 6 * bytes, [&] { ops().swiglu_backward(grad, gate_up); });
}

// The logits read once from memory, the gradients written: 6 bytes a logit. One chunk of rows.
void time_cross_entropy(const Shape& s) {
  const int64_t rows = (int64_t{1} << 26) / s.vocabulary;
  const at::Tensor logits = at::randn({rows, s.vocabulary}, options(at::kFloat));
  const at::Tensor targets = at::randint(s.vocabulary, {rows}, options(at::kLong));
  const at::Tensor nll = at::empty({rows}, options(at::kFloat));
  const at::Tensor grad = at::empty({rows, s.vocabulary}, options(at::kBFloat16));
  print_bandwidth(
      fmt::format("cross entropy, {} rows", rows), 6.0 * static_cast<double>(logits.numel()), [&] {
        gpu::cross_entropy(logits.const_data_ptr<float>(), targets.const_data_ptr<int64_t>(),
                           nll.mutable_data_ptr<float>(), grad.mutable_data_ptr(), rows,
                           s.vocabulary, current_stream());
      });
}

// The tokens' gradients read, the table cleared, the rows of tokens added to: ids as frequent as
// those of text, the most frequent one 6 to 7 % of all. The sort is part of it.
void time_embedding(const Shape& s) {
  const double span = std::log(static_cast<double>(s.vocabulary));
  const at::Tensor ids = (at::rand({s.tokens}, options(at::kFloat)) * span).exp().to(at::kLong) - 1;
  const at::Tensor grad = random({s.tokens, s.width});
  const GradientTarget table = gradient({s.vocabulary, s.width});
  const auto different = static_cast<double>(std::get<0>(at::_unique(ids)).numel());
  const double bytes = 2.0 * static_cast<double>(grad.numel()) +
                       4.0 * static_cast<double>(table.tensor.numel()) +
                       8.0 * different * static_cast<double>(s.width);
  print_bandwidth("embedding, backward", bytes,
                  [&] { ops().embedding_backward(grad, ids, table); });
  print_bandwidth("embedding, backward, by ATen", bytes,
                  [&] { reference::embedding_backward(grad, ids, table); });
}

// Some 35 bytes a token: the two launches are what counts.
void time_router(const Shape& s) {
  RoutedTokens tokens;
  tokens.position = at::arange(s.tokens, options(at::kLong));
  tokens.logits = at::randn({s.tokens}, options(at::kFloat));
  tokens.counted = at::ones_like(tokens.logits, at::kBool);
  tokens.route = tokens.logits > 0;
  tokens.disagreement = tokens.logits.square();
  tokens.window = 1024;
  const at::Tensor nll = at::rand({s.tokens}, options(at::kFloat));
  const at::Tensor row = at::zeros({RoutingStatistics::kColumns}, options(at::kDouble));
  const RouterObjective objective{{1e-3, 0.1, 1.0, 100.0, false}, nll, 22};
  print_bandwidth("router's gradient", 35.0 * static_cast<double>(s.tokens),
                  [&] { ops().router_gradient(tokens, objective, nll, row); });
}

// A layer's matrices, without those of attention.
void time_optimizer(const Shape& s) {
  const auto matrix = [](const std::string& name, int64_t rows, int64_t columns) {
    return ParameterGroup{name, {{name, {rows, columns}, ParameterRole::kMatrix}}};
  };
  const std::vector<ParameterUnit> layer = {
      {"layer", {matrix("gate_up", 2 * s.ffn, s.width), matrix("down", s.width, s.ffn)}}};
  for (const auto& [moments, bytes] :
       {std::pair{at::kFloat, 30.0}, std::pair{at::kBFloat16, 22.0}}) {
    FlatParameters parameters(layer, {}, at::kBFloat16, at::Device(at::kCUDA),
                              FlatParameters::Purpose::kTraining, moments);
    FlatUnit& unit = parameters.units()[0];
    unit.master.normal_();
    unit.gradient.normal_();
    const auto elements = static_cast<double>(unit.trainable_numel);
    if (moments == at::kFloat) {
      print_bandwidth("norm of gradients", 4 * elements, [&] { gradient_square_sum(parameters); });
    }
    AdamW optimizer({}, parameters);
    const at::Tensor one = at::ones({}, options(at::kDouble));
    print_bandwidth(fmt::format("AdamW, moments {}", toString(moments)), bytes * elements,
                    [&] { optimizer.step(1e-6, one, one); });
  }
}

int run(int argc, char** argv) {
  Shape shape;
  CLI::App app("Operations that memory bounds: microseconds, GB/s, and the share of a copy's.");
  const auto add = [&](const char* name, int64_t& value, const char* text) {
    app.add_option(name, value, text)->capture_default_str();
  };
  add("--tokens", shape.tokens, "of a micro-batch");
  add("--width", shape.width, "of the residual stream");
  add("--heads", shape.heads, "of queries");
  add("--kv-heads", shape.kv_heads, "of keys and of values");
  add("--head-dim", shape.head_dim, "width of a head");
  add("--ffn", shape.ffn, "width of the FFN");
  add("--vocabulary", shape.vocabulary, "logits of a token");
  CLI11_PARSE(app, argc, argv);
  if (!at::hasCUDA()) {
    fmt::print(stderr, "error: needs a GPU.\n");
    return 1;
  }
  const c10::InferenceMode inference;
  time_norms(shape);
  time_heads(shape);
  time_swiglu(shape);
  time_cross_entropy(shape);
  time_embedding(shape);
  time_router(shape);
  time_optimizer(shape);
  return 0;
}

}  // namespace
}  // namespace swiattn

int main(int argc, char** argv) { return swiattn::run(argc, argv); }
