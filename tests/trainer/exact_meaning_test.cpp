// What docs/method.md and the configuration reference promise, checked on whole runs: ten steps of
// swiattn-train in float32 against an independent float64 evaluation of data order, loss,
// regularizer, clipping, schedule and AdamW. Tolerances are those of the contract.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>

#include "../base/temporary_folder.h"
#include "../model/judge.h"
#include "../model/small_models.h"
#include "small_run.h"

namespace swiattn {
namespace {

constexpr int64_t kLength = 24;
constexpr int64_t kBatch = 4;
constexpr int64_t kSteps = 10;
constexpr double kPeak = 2e-3;

struct Case {
  std::string name;
  Architecture architecture = Architecture::kLlama;
  std::string mode = "switch";
  std::string gate = "learned";
  std::string kind = "adaptive";
  bool mask_documents = true;
  int ranks = 1;
  int micro_batch = 1;
  std::string extra;  // further flags
  std::optional<FarSampling> far_sampling = {};
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto architecture :
       {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2, Architecture::kQwen3}) {
    all.push_back({.name = to_string(architecture), .architecture = architecture});
  }
  for (const std::string kind : {"constant", "no_nll", "no_disagreement", "target_ratio", "none"}) {
    all.push_back({.name = kind, .kind = kind});
  }
  for (const std::string mode : {"full", "window", "static"}) {
    all.push_back({.name = mode, .mode = mode, .kind = "none"});
  }
  all.push_back({.name = "random_gate", .gate = "random", .kind = "none"});
  all.push_back({.name = "top_k_gate", .gate = "top_k"});
  all.push_back({.name = "unmasked", .mask_documents = false});
  all.push_back({.name = "micro_batch_2", .micro_batch = 2});
  all.push_back({.name = "micro_batch_4", .micro_batch = 4});
  all.push_back({.name = "two_ranks", .ranks = 2});
  all.push_back({.name = "two_ranks_micro_batch_2", .ranks = 2, .micro_batch = 2});
  all.push_back({.name = "two_ranks_unmasked_qwen2",
                 .architecture = Architecture::kQwen2,
                 .mask_documents = false,
                 .ranks = 2});
  all.push_back({.name = "reference_attached",
                 .extra = "--attention.backend=reference --regularizer.detach_gamma=false"});
  const FarSampling sampling{0.1, 1.0};
  all.push_back({.name = "sampled", .far_sampling = sampling});
  all.push_back({.name = "sampled_constant", .kind = "constant", .far_sampling = sampling});
  all.push_back({.name = "sampled_top_k_gate", .gate = "top_k", .far_sampling = sampling});
  all.push_back({.name = "sampled_two_ranks", .ranks = 2, .far_sampling = sampling});
  return all;
}

// Samples first … first + kBatch - 1 of the shard, as the contract cuts them.
judge::Tokens samples(const std::vector<int32_t>& shard, int64_t first, int32_t eos, bool mask) {
  const int64_t count = (static_cast<int64_t>(shard.size()) - 1) / kLength;
  judge::Tokens tokens{.sequences = kBatch, .length = kLength};
  for (int64_t b = 0; b < kBatch; ++b) {
    tokens.samples.push_back(first + b);
    const int64_t begin = (first + b) % count * kLength;
    int32_t position = 0;
    for (int64_t i = 0; i < kLength; ++i) {
      const int32_t input = shard[begin + i];
      if (i == 0 || (mask && shard[begin + i - 1] == eos)) {
        tokens.starts.push_back(static_cast<int32_t>(b * kLength + i));
        position = 0;
      }
      tokens.inputs.push_back(input);
      tokens.positions.push_back(position++);
      tokens.targets.push_back(mask && input == eos ? -1 : shard[begin + i + 1]);
    }
  }
  tokens.starts.push_back(static_cast<int32_t>(kBatch * kLength));
  return tokens;
}

double learning_rate(int64_t step) {
  if (step <= 3) return kPeak * double(step) / 3;
  return 0.1 * kPeak +
         0.9 * kPeak * 0.5 * (1 + std::cos(M_PI * double(step - 3) / double(kSteps - 3)));
}

std::string flags(const Case& c, double gamma) {
  std::string text = fmt::format(
      "--attention.mode={} --router.gate={} --regularizer.kind={} --regularizer.gamma={} "
      "--attention.mask_documents={} --train.micro_batch={} {}",
      c.mode, c.gate, c.kind, gamma, c.mask_documents, c.micro_batch, c.extra);
  if (c.mode == "static") text += " --attention.full_layers=[2]";
  if (c.far_sampling) {
    text += fmt::format(" '--attention.far_sampling={{enabled: true, minimum: {}, scale: {}}}'",
                        c.far_sampling->minimum, c.far_sampling->scale);
  }
  if (c.gate != "learned") text += " --router.ratio=0.3";
  if (c.kind == "target_ratio") text += " --regularizer.target_ratio=0.25";
  return text;
}

class ExactMeaningTest : public testing::TestWithParam<Case> {};

TEST_P(ExactMeaningTest, TenStepsEqualTheFloat64Evaluation) {
  const Case& c = GetParam();
  const TemporaryFolder folder;
  const std::string root = folder.path();
  const ModelConfig config = small_config(c.architecture);
  const bool with_router = c.mode == "switch" && c.gate != "random";
  auto weights = random_weights(config, with_router, 17);
  write_model_folder(root + "/base", config, weights);
  const auto eos = static_cast<int32_t>(config.vocab_size - 1);
  const std::vector<int32_t> shard = random_documents(700, config.vocab_size, 23);
  write_flat_shard(root + "/tokens.bin", shard);
  double gamma = 0.05;

  std::ofstream(root + "/run.yaml") << fmt::format(
      "run: {{folder: {0}/run, seed: 77}}\n"
      "model: {{init_from: {0}/base, compute: float32}}\n"
      "attention: {{window: 6}}\n"
      "router: {{learning_rate_multiplier: 2.0}}\n"
      "data: {{sequence_length: {1}, shuffle: false, sources: [{{path: {0}/tokens.bin, eos_id: "
      "{2}}}]}}\n"
      "train: {{steps: {3}, global_batch: {4}}}\n"
      "optimizer: {{learning_rate: {5}, clip: 0.8}}\n"
      "schedule: {{warmup: 3}}\n"
      "validation: {{every: 100}}\n"
      "checkpoint: {{every: 100, export_at_end: false}}\n",
      root, kLength, eos, kSteps, kBatch, kPeak);
  const std::string launcher =
      c.ranks == 1 ? ""
                   : fmt::format("mpirun --allow-run-as-root --oversubscribe -np {} ", c.ranks);
  const ProgramResult result =
      run_command(fmt::format("{}{}/swiattn-train --device cpu --config {}/run.yaml {}", launcher,
                              SWIATTN_PROGRAMS, root, flags(c, gamma)));
  ASSERT_EQ(result.code, 0) << result.output;

  // The judge's own run.
  const std::vector<LayerAttention> kinds = {c.mode == "switch" ? LayerAttention::kSwitch
                                             : c.mode == "full" ? LayerAttention::kFull
                                                                : LayerAttention::kWindow};
  std::vector<LayerAttention> attention(3, kinds[0]);
  if (c.mode == "static") attention[1] = LayerAttention::kFull;
  Gate gate{c.gate == "random"  ? GateKind::kRandom
            : c.gate == "top_k" ? GateKind::kTopK
                                : GateKind::kLearned,
            0.3, 77, c.far_sampling};
  judge::Regularizer regularizer{.kind = c.kind == "target_ratio" ? "adaptive" : c.kind};
  regularizer.detach = c.extra.find("detach_gamma=false") == std::string::npos;
  std::map<std::string, at::Tensor> m, v;
  const std::vector<Json> lines = read_metrics(root + "/run", "train");
  ASSERT_EQ(lines.size(), static_cast<size_t>(kSteps));
  for (int64_t step = 1; step <= kSteps; ++step) {
    const judge::Tokens tokens = samples(shard, (step - 1) * kBatch, eos, c.mask_documents);
    int64_t counted = 0;
    for (const int32_t target : tokens.targets) counted += target >= 0 ? 1 : 0;
    for (auto& [name, tensor] : weights) tensor = tensor.detach().requires_grad_(true);
    regularizer.gamma = gamma;
    const judge::Verdict verdict =
        judge::evaluate(config, attention, 6, gate, regularizer, weights, tokens);
    ((verdict.loss_sum + verdict.regularizer_sum) / double(counted)).backward();
    double square = 0.0, full = 0.0;
    for (const auto& [name, tensor] : weights)
      square += tensor.grad().square().sum().item<double>();
    for (const at::Tensor& route : verdict.routes) full += route.sum().item<double>();
    const double norm = std::sqrt(square);
    const double full_ratio = full / double(3 * kBatch * kLength);

    const Json& line = lines[static_cast<size_t>(step - 1)];
    const double loss = verdict.loss_sum.item<double>() / double(counted);
    EXPECT_NEAR(line.at("loss").get<double>(), loss, 1e-5 * loss) << "step " << step;
    const double penalty = verdict.regularizer_sum.item<double>() / double(counted);
    EXPECT_NEAR(line.at("regularizer").get<double>(), penalty, 1e-5 * penalty + 1e-9)
        << "step " << step;
    EXPECT_NEAR(line.at("grad_norm").get<double>(), norm, 1e-3 * norm) << "step " << step;
    EXPECT_NEAR(line.at("full_ratio").get<double>(), full_ratio, 1e-12) << "step " << step;
    EXPECT_NEAR(line.at("learning_rate").get<double>(), learning_rate(step), 1e-12);
    EXPECT_EQ(line.at("tokens").get<int64_t>(), step * kBatch * kLength);

    const double factor = std::min(1.0, 0.8 / (norm + 1e-6));
    for (auto& [name, tensor] : weights) {
      const at::Tensor g = tensor.grad() * factor;
      const at::Tensor p = tensor.detach();
      if (!m[name].defined()) m[name] = at::zeros_like(p), v[name] = at::zeros_like(p);
      m[name] = 0.9 * m[name] + 0.1 * g;
      v[name] = 0.95 * v[name] + 0.05 * g * g;
      const bool router = name.find("router") != std::string::npos;
      const double decay = p.dim() == 2 && !router ? 0.1 : 0.0;
      const double rate = learning_rate(step) * (router ? 2.0 : 1.0);
      const at::Tensor m_hat = m[name] / (1 - std::pow(0.9, step));
      const at::Tensor v_hat = v[name] / (1 - std::pow(0.95, step));
      tensor = p - rate * (m_hat / (v_hat.sqrt() + 1e-8) + decay * p);
    }
    if (c.kind == "target_ratio") gamma *= std::exp(0.05 * (full_ratio - 0.25) / 0.25);
  }

  const auto trained = read_checkpoint_weights(root + "/run");
  int64_t elements = 0, outside = 0;
  for (const auto& [name, expected] : weights) {
    ASSERT_TRUE(trained.count(name)) << name;
    const at::Tensor error = (trained.at(name) - expected).abs();
    elements += error.numel();
    outside += (error > 1e-5).sum().item<int64_t>();
    EXPECT_LT(error.max().item<double>(), 0.5 * kPeak) << name;
  }
  EXPECT_LE(outside * 10'000, elements) << outside << " of " << elements;
}

INSTANTIATE_TEST_SUITE_P(All, ExactMeaningTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace swiattn
