// Times the products of linear layers on one GPU as the trainer computes them, and as PyTorch does.
// The two take turns; in its own each runs for a while without a pause, as in a step, under the
// GPU's power limit.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "benchmarks/gpu_time.h"
#include "ops/fused_operations.h"

namespace swiattn {
namespace {

int run(int argc, char** argv) {
  int64_t tokens = 32768;
  // Paper's shape: q|k|v, attention's output, gate|up, down.
  std::vector<std::string> layers = {"2048x4096", "2048x2048", "2048x11264", "5632x2048"};
  double milliseconds = 100;
  CLI::App app(
      "Products of linear layers: ours against PyTorch's. 'added' is a forward into the residual "
      "stream. dL/dW is float32 with us, where gradients are summed, and bfloat16 with PyTorch.");
  app.add_option("--tokens", tokens, "of a micro-batch")->capture_default_str();
  app.add_option("--layers", layers, "input x output features of each")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--milliseconds", milliseconds, "of each product, in five turns")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (!at::hasCUDA()) {
    fmt::print(stderr, "error: needs a GPU.\n");
    return 1;
  }
  const auto type = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);
  fmt::print("{:<14}{:<10}{:>10}{:>10}{:>8}{:>10}\n", "layer", "product", "PyTorch us", "ours us",
             "ratio", "TFLOP/s");
  for (const std::string& layer : layers) {
    const size_t by = layer.find('x');
    const int64_t in = std::stoll(layer.substr(0, by)), out = std::stoll(layer.substr(by + 1));
    const at::Tensor x = at::randn({tokens, in}, type), weight = at::randn({out, in}, type);
    const at::Tensor grad = at::randn({tokens, out}, type);
    const auto row = [&](const char* name, const std::function<void()>& theirs,
                         const std::function<void()>& ours) {
      // By turns, so that neither has the cooler GPU.
      constexpr int kTurns = 5;
      double their_time = 0, our_time = 0;
      for (int i = 0; i < kTurns; ++i) {
        their_time += sustained_microseconds(milliseconds / kTurns, theirs) / kTurns;
        our_time += sustained_microseconds(milliseconds / kTurns, ours) / kTurns;
      }
      fmt::print("{:<14}{:<10}{:>10.1f}{:>10.1f}{:>8.3f}{:>10.0f}\n", layer, name, their_time,
                 our_time, our_time / their_time,
                 2e-6 * static_cast<double>(tokens * in * out) / our_time);
    };
    row(
        "forward", [&] { at::linear(x, weight); }, [&] { fused::linear_forward(x, weight, {}); });
    row(
        "added", [&] { at::addmm(grad, x, weight.t()); },
        [&] { fused::linear_add(grad, x, weight); });
    row(
        "dL/dx", [&] { at::mm(grad, weight); },
        [&] { fused::linear_input_gradient(grad, weight); });
    const GradientTarget into{at::empty({out, in}, type.dtype(at::kFloat)), GradientSum::kWrite};
    row(
        "dL/dW", [&] { at::mm(grad.t(), x); },
        [&] { fused::linear_weight_gradient(grad, x, into); });
  }
  return 0;
}

}  // namespace
}  // namespace swiattn

int main(int argc, char** argv) { return swiattn::run(argc, argv); }
