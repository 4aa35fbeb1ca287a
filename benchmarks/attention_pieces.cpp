// Times the pieces of switch attention on one GPU and prints a JSON object a line; scripts/
// bench_attention runs it, adds the peers and makes the table.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/cuda/CUDAFunctions.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include "attention/backend.h"
#include "attention/switch_attention.h"
#include "base/json.h"
#include "benchmarks/exact_attention.h"
#include "benchmarks/gpu_time.h"
#include "parallel/device.h"

namespace swiattn {
namespace {

struct Options {
  int64_t batch = 1, length = 32768, heads = 16, kv_heads = 8, head_dim = 128, window = 1024;
  std::vector<double> ratios = {0.13};
  double sampled = 0.1;  // share of the rows of the window that get both branches
  std::vector<std::string> backends = {"fused", "library"};
  int repeats = 20;
  bool deterministic = false;
  bool errors = false;
};

class Pieces {
 public:
  explicit Pieces(const Options& options) : o_(options) {
    at::manual_seed(5);
    shape_ = {o_.heads, o_.kv_heads, o_.head_dim, o_.window,
              1.0 / std::sqrt(static_cast<double>(o_.head_dim))};
    std::vector<int32_t> starts;
    for (int64_t i = 0; i <= o_.batch; ++i) starts.push_back(static_cast<int32_t>(i * o_.length));
    layout_ = make_document_layout(starts, o_.window, at::kCUDA);
    const auto type = at::TensorOptions().device(at::kCUDA).dtype(at::kBFloat16);
    qkv_ = at::randn({layout_.tokens, (o_.heads + 2 * o_.kv_heads) * o_.head_dim}, type);
    grad_ = at::randn({layout_.tokens, o_.heads, o_.head_dim}, type);
    grad_qkv_ = at::zeros_like(qkv_);
  }

  void run() {
    for (const std::string& name : o_.backends) {
      backend_ = make_attention_backend(name, at::kCUDA, at::kBFloat16);
      bands(name);
      for (const double ratio : o_.ratios) routed(name, ratio);
    }
  }

 private:
  // Query-key pairs of all rows, and of the branch taken.
  double full_pairs() const {
    return static_cast<double>(o_.batch) * o_.length * (o_.length + 1) / 2;
  }
  double near_pairs() const {
    const double w = static_cast<double>(std::min(o_.window, o_.length));
    return static_cast<double>(o_.batch) * (w * o_.length - w * (w - 1) / 2);
  }

  // `pairs` visible pairs take 4 Hq D operations each forward and 10 backward.
  void report(const std::string& backend, const std::string& piece, double ratio, double pairs,
              double factor, const std::function<void()>& work) const {
    const double microseconds = median_microseconds(o_.repeats, work);
    const double operations = factor * pairs * static_cast<double>(o_.heads * o_.head_dim);
    Json line = {{"backend", backend},
                 {"piece", piece},
                 {"batch", o_.batch},
                 {"length", o_.length},
                 {"heads", o_.heads},
                 {"kv_heads", o_.kv_heads},
                 {"head_dim", o_.head_dim},
                 {"window", o_.window},
                 {"microseconds", microseconds},
                 {"tflops", operations / microseconds / 1e6}};
    if (ratio >= 0) line["ratio"] = ratio;
    fmt::print("{}\n", line.dump());
    std::fflush(stdout);
  }

  void bands(const std::string& name) {
    const auto each = [&](Band band, const char* piece, double pairs) {
      const Attended out = backend_->forward(band, qkv_, layout_, shape_);
      report(name, fmt::format("{} forward", piece), -1, pairs, 4,
             [&] { backend_->forward(band, qkv_, layout_, shape_); });
      if (band == Band::kFar) return;
      report(name, fmt::format("{} backward", piece), -1, pairs, 10, [&] {
        backend_->backward(band, grad_, qkv_, out, {}, layout_, shape_, grad_qkv_,
                           GradientSum::kWrite);
      });
    };
    each(Band::kFull, "full", full_pairs());
    each(Band::kNear, "near", near_pairs());
    each(Band::kFar, "far", full_pairs() - near_pairs());
  }

  void routed(const std::string& name, double ratio) {
    const at::Tensor route = at::rand({layout_.tokens}, qkv_.options().dtype(at::kFloat)) < ratio;
    const double far = ratio * (full_pairs() - near_pairs());
    if (o_.errors) report_errors(name, ratio, route);
    const SwitchSaved saved = forward(route);
    report(name, "routed forward", ratio, far + near_pairs(), 4,
           [&] { backend_->attend_routed(qkv_, route, layout_, shape_); });
    report(name, "switch forward", ratio, full_pairs(), 4, [&] { forward(route); });
    const at::Tensor others =
        at::rand({layout_.tokens}, qkv_.options().dtype(at::kFloat)) < o_.sampled;
    const at::Tensor both = route.logical_or(others).logical_and(layout_.position >= shape_.window);
    const double far_of_both = (ratio + (1 - ratio) * o_.sampled) * (full_pairs() - near_pairs());
    report(name, "sampled forward", ratio, far_of_both + near_pairs(), 4, [&] {
      backend_->attend_sampled(qkv_, route, both, layout_, shape_, DisagreementReduction::kMean);
    });
    report(name, "switch backward", ratio, far + near_pairs(), 10, [&] {
      switch_attention_backward(*backend_, grad_, {}, qkv_, saved, layout_, shape_, grad_qkv_);
    });
  }

  // Of what a step computes: outputs, and the gradients of queries, keys and values.
  void report_errors(const std::string& name, double ratio, const at::Tensor& route) const {
    const ExactAttention exact = exact_attention(qkv_, grad_, route, layout_, shape_);
    const SwitchSaved saved = forward(route);
    const at::Tensor grad_qkv = at::full_like(qkv_, NAN);
    switch_attention_backward(*backend_, grad_, {}, qkv_, saved, layout_, shape_, grad_qkv);
    const auto error = [](const at::Tensor& found, const at::Tensor& expected) {
      return ((found.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
    };
    const Json line = {
        {"backend", name},
        {"piece", "errors"},
        {"length", o_.length},
        {"ratio", ratio},
        {"out", error(saved.out, exact.out)},
        {"routed_out", error(backend_->attend_routed(qkv_, route, layout_, shape_), exact.out)},
        {"dq", error(shape_.queries(grad_qkv), shape_.queries(exact.grad_qkv))},
        {"dk", error(shape_.keys(grad_qkv), shape_.keys(exact.grad_qkv))},
        {"dv", error(shape_.values(grad_qkv), shape_.values(exact.grad_qkv))}};
    fmt::print("{}\n", line.dump());
  }

  SwitchSaved forward(const at::Tensor& route) const {
    return backend_->switch_forward(qkv_, route, layout_, shape_, DisagreementReduction::kMean);
  }

  const Options& o_;
  AttentionShape shape_;
  DocumentLayout layout_;
  at::Tensor qkv_, grad_, grad_qkv_;
  std::unique_ptr<AttentionBackend> backend_;
};

}  // namespace
}  // namespace swiattn

int main(int argc, char** argv) {
  swiattn::Options options;
  CLI::App app{"Times the pieces of switch attention on one GPU."};
  app.add_option("--batch", options.batch, "sequences")->capture_default_str();
  app.add_option("--length", options.length, "of a sequence")->capture_default_str();
  app.add_option("--heads", options.heads, "of queries")->capture_default_str();
  app.add_option("--kv-heads", options.kv_heads, "of keys and of values")->capture_default_str();
  app.add_option("--head-dim", options.head_dim, "width of a head")->capture_default_str();
  app.add_option("--window", options.window, "keys that the local branch sees")
      ->capture_default_str();
  app.add_option("--ratio", options.ratios, "shares of tokens with full attention")
      ->capture_default_str();
  app.add_option("--sampled", options.sampled, "share of the other tokens that far sampling draws")
      ->capture_default_str();
  app.add_option("--backend", options.backends, "whose pieces")->capture_default_str();
  app.add_option("--repeats", options.repeats, "the median of them counts")->capture_default_str();
  app.add_flag("--deterministic", options.deterministic, "backward passes that repeat their bits");
  app.add_flag("--errors", options.errors, "relative errors against float64, too");
  CLI11_PARSE(app, argc, argv);
  if (!at::hasCUDA()) {
    fmt::print(stderr, "error: needs a GPU.\n");
    return 1;
  }
  swiattn::choose_algorithms(options.deterministic);
  swiattn::Pieces(options).run();
  return 0;
}
