// Logits of small random models of all architectures against those that transformers computed, and
// of hybrids, routes included, against an independent float64 evaluation. The folders are read as a
// user's are.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/file_system.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/hf_import.h"
#include "model/causal_lm.h"
#include "model/hybrid_attention.h"
#include "model/parameter_table.h"

namespace swiattn {
namespace {

at::Tensor stored(const SafetensorsFile& file, const std::string& name, at::ScalarType type) {
  const TensorEntry& entry = file.entry(name);
  return at::from_blob(const_cast<std::byte*>(file.data(entry).data()), entry.shape, type);
}

std::vector<LayerAttention> attention_of(const HybridAttention& hybrid, int64_t layers) {
  std::vector<LayerAttention> result(static_cast<size_t>(layers),
                                     hybrid.mode == "switch" ? LayerAttention::kSwitch
                                     : hybrid.mode == "full" ? LayerAttention::kFull
                                                             : LayerAttention::kWindow);
  for (const int64_t layer : hybrid.full_layers) {
    result[static_cast<size_t>(layer - 1)] = LayerAttention::kFull;
  }
  return result;
}

class LogitsTest : public testing::TestWithParam<std::string> {};

TEST_P(LogitsTest, EqualTheStoredOnes) {
  const std::string path = std::string(SWIATTN_TEST_FIXTURES) + "/models/" + GetParam();
  const HfFolder folder(path);
  const ModelConfig& config = folder.config();
  HybridAttention hybrid;
  hybrid.mode = "full";
  if (const auto own = read_hybrid_attention(config, path)) hybrid = *own;

  FlatParameters parameters(parameter_table(config, hybrid.has_router()), {}, at::kFloat, at::kCPU,
                            FlatParameters::Purpose::kEvaluation);
  load_weights(folder, parameters, {});
  CausalLmOptions options;
  options.attention = attention_of(hybrid, config.layers);
  options.window = hybrid.window;
  const CausalLm model(config, options, parameters, reference_operations(),
                       make_attention_backend("library", at::kCPU, at::kFloat));

  const SafetensorsFile expected(path + "/expected.safetensors");
  const at::Tensor ids = stored(expected, "input_ids", at::kLong);  // [B, S]
  const int64_t sequences = ids.size(0), length = ids.size(1);
  const at::Tensor narrow = ids.to(at::kInt).contiguous().flatten();
  const std::span<const int32_t> inputs(narrow.const_data_ptr<int32_t>(),
                                        static_cast<size_t>(narrow.numel()));
  std::vector<int32_t> positions(inputs.size()), starts;
  for (size_t t = 0; t < inputs.size(); ++t) {
    positions[t] = static_cast<int32_t>(t % static_cast<size_t>(length));
    if (positions[t] == 0) starts.push_back(static_cast<int32_t>(t));
  }
  starts.push_back(static_cast<int32_t>(inputs.size()));
  const std::vector<int64_t> samples(static_cast<size_t>(sequences));
  const MicroBatch batch =
      model.prepare({sequences, length, inputs, inputs, positions, starts, samples});

  const at::Tensor logits = model.logits(batch).view({sequences, length, -1});
  EXPECT_LT((logits - stored(expected, "logits", at::kFloat)).abs().max().item<double>(), 1e-4);
  if (!expected.contains("route")) return;
  std::vector<at::Tensor> routes;
  model.evaluate(batch, Branches::kBoth, &routes);
  const at::Tensor found =
      at::stack(routes).view({config.layers, sequences, length}).transpose(0, 1);
  EXPECT_TRUE(found.to(at::kLong).equal(stored(expected, "route", at::kLong)));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LogitsTest,
                         testing::Values("llama-tied", "mistral-linear", "qwen2-sharded",
                                         "qwen3-yarn", "hybrid-llama", "hybrid-qwen3",
                                         "static-qwen2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace swiattn
