// Recomputation on a GPU with the fused kernels: the same bits in every mode where the run is
// deterministic, and the memory that docs/architecture.md counts.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>

#include "deterministic_gpu.h"
#include "expected_micro_batch.h"
#include "gpu_model.h"
#include "layer_memory.h"

namespace swiattn {
namespace {

using A = LayerAttention;

constexpr std::array kModes = {Recompute::kNone, Recompute::kSelective, Recompute::kLayer};
constexpr int64_t kWindow = 128;

struct Case {
  std::string name;
  Architecture architecture;
  std::vector<A> attention;
  int64_t head_dim;
  bool documents;
  Gate gate;

  bool with_router() const { return attention[0] == A::kSwitch && gate.has_router(); }
};

std::vector<Case> cases() {
  const std::vector<A> switches(3, A::kSwitch), full(3, A::kFull), window(3, A::kWindow);
  const Gate random{GateKind::kRandom, 0.3, 7}, top_k{GateKind::kTopK, 0.2, 0},
      sampled{GateKind::kLearned, 0.0, 7, FarSampling{0.1, 2.0}};
  return {{"switch_64", Architecture::kLlama, switches, 64, false, {}},
          {"switch_documents", Architecture::kLlama, switches, 128, true, {}},
          {"switch_biases", Architecture::kQwen2, switches, 128, false, {}},
          {"switch_qk_norms", Architecture::kQwen3, switches, 128, true, {}},
          {"switch_untied", Architecture::kMistral, switches, 64, true, {}},
          // A head width that our attention kernels do not cover.
          {"switch_32", Architecture::kLlama, switches, 32, false, {}},
          {"sampled", Architecture::kLlama, switches, 128, true, sampled},
          {"random_gate", Architecture::kLlama, switches, 64, true, random},
          {"top_k_gate", Architecture::kLlama, switches, 64, false, top_k},
          {"full", Architecture::kQwen3, full, 128, false, {}},
          {"full_documents", Architecture::kLlama, full, 64, true, {}},
          {"window", Architecture::kLlama, window, 128, true, {}},
          {"static_", Architecture::kLlama, {A::kWindow, A::kFull, A::kWindow}, 64, false, {}}};
}

struct Model : GpuModel {
  Model(const ModelConfig& config, const Case& c, Recompute recompute)
      : GpuModel(config,
                 {c.attention, kWindow, c.gate, gpu_model_objective(c.with_router()), recompute},
                 c.with_router(), make_attention_backend("fused", kGpu, at::kBFloat16)) {}
};

// With documents, some of them have far keys and some have none.
HostTokens tokens_of(int64_t sequences, int64_t length, uint64_t seed, bool documents) {
  HostTokens tokens = host_tokens(sequences, length, seed);
  tokens.starts.clear();
  for (size_t i = 0; i < tokens.positions.size(); ++i) {
    const int64_t in_sequence = static_cast<int64_t>(i) % length;
    const bool starts =
        in_sequence == 0 ||
        (documents && (in_sequence == 600 || in_sequence == 601 || in_sequence == 690));
    tokens.positions[i] = starts ? 0 : tokens.positions[i - 1] + 1;
    if (starts) tokens.starts.push_back(static_cast<int32_t>(i));
  }
  tokens.starts.push_back(static_cast<int32_t>(tokens.positions.size()));
  return tokens;
}

class GpuRecomputeTest : public testing::TestWithParam<Case> {
 protected:
  const DeterministicGpu deterministic_;
  const c10::InferenceMode no_autograd_;
};

TEST_P(GpuRecomputeTest, GivesTheSameBits) {
  const Case& c = GetParam();
  const ModelConfig config = gpu_model_config(c.architecture, 256, c.head_dim);
  const auto train = [&](Recompute recompute) {
    Model model(config, c, recompute);
    std::vector<at::Tensor> results;
    for (const uint64_t seed : {5, 6}) {
      const HostTokens tokens = tokens_of(2, 1024, seed, c.documents);
      const MicroBatchResult result = model.model.train(model.model.prepare(tokens.packed()));
      results.push_back(result.nll);
      results.push_back(result.statistics);
    }
    for (const FlatUnit& unit : model.parameters.units()) results.push_back(unit.gradient);
    return results;
  };
  const std::vector<at::Tensor> expected = train(Recompute::kNone);
  for (const Recompute recompute : kModes) {  // kNone: what is compared repeats itself at all
    const std::vector<at::Tensor> found = train(recompute);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(at::equal(found[i], expected[i]))
          << "result " << i << ", mode " << static_cast<int>(recompute);
      EXPECT_TRUE(found[i].isfinite().all().item<bool>()) << "result " << i;
    }
  }
}

TEST_P(GpuRecomputeTest, KeepsTheBytesThatAreTold) {
  const Case& c = GetParam();
  const ModelConfig config = gpu_model_config(c.architecture, 256, c.head_dim);
  Model model(config, c, Recompute::kNone);
  const MicroBatch batch = model.model.prepare(tokens_of(2, 1024, 5, c.documents).packed());
  const Objective objective = gpu_model_objective(c.with_router());
  const DecoderLayer layer(config, 0, c.attention[0], kWindow, c.gate, objective,
                           model.parameters.unit("layer.0"), model.model.operations(),
                           model.model.backend());
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(kGpu);
  const at::Tensor x = at::randn({batch.tokens(), config.hidden_size}, options);
  for (const Recompute recompute : kModes) {
    LayerSaved saved;
    layer.forward(x, batch, c.gate.far_sampling ? Branches::kSampled : Branches::kBoth, saved);
    saved.drop(recompute);
    EXPECT_EQ(held_bytes(saved),
              batch.tokens() *
                  kept_bytes_per_token(recompute, config, c.attention[0], c.gate, at::kBFloat16))
        << "mode " << static_cast<int>(recompute);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GpuRecomputeTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

// The most of a step is in the last layer's FFN: there its tensors are all there, those of the
// others as far as they are kept, and on top the gradients of the stream and of what the SwiGLU put
// out, or in the forward these two themselves.
TEST(GpuRecomputeMemoryTest, ThePeakIsThatOfOneLayerAndWhatTheOthersKeep) {
  const c10::InferenceMode no_autograd;
  constexpr int64_t kLength = 16384;
  const Case c{"", Architecture::kMistral, std::vector<A>(8, A::kSwitch), 128, false, {}};
  ModelConfig config = gpu_model_config(c.architecture, 512, c.head_dim);
  config.layers = 8;
  const HostTokens tokens = tokens_of(1, kLength, 5, c.documents);
  const auto kept = [&](Recompute recompute) {
    return kept_bytes_per_token(recompute, config, A::kSwitch, c.gate, at::kBFloat16);
  };
  std::vector<double> peaks;
  for (const Recompute recompute : kModes) {
    Model model(config, c, recompute);
    const MicroBatch batch = model.model.prepare(tokens.packed());
    model.model.train(batch);  // what libraries allocate once
    c10::cuda::device_synchronize();
    using Stats = c10::CachingDeviceAllocator::DeviceStats;
    const auto allocated = [](const Stats& stats) { return stats.allocated_bytes[0]; };
    c10::cuda::CUDACachingAllocator::resetPeakStats(0);
    const int64_t before = allocated(c10::cuda::CUDACachingAllocator::getDeviceStats(0)).current;
    model.model.train(batch);
    const int64_t most = allocated(c10::cuda::CUDACachingAllocator::getDeviceStats(0)).peak;
    const auto peak = static_cast<double>(most - before);
    const auto expected = static_cast<double>(
        kLength * ((config.layers - 1) * kept(recompute) + kept(Recompute::kNone) +
                   2 * (config.hidden_size + config.intermediate_size)));
    fmt::print("mode {}: peak {:.1f} MiB, counted {:.1f} MiB\n", static_cast<int>(recompute),
               peak / (1 << 20), expected / (1 << 20));
    EXPECT_NEAR(peak, expected, 0.08 * expected);
    peaks.push_back(peak);
  }
  EXPECT_GT(peaks[0], 1.5 * peaks[1]);
  EXPECT_GT(peaks[1], 1.2 * peaks[2]);
}

}  // namespace
}  // namespace swiattn
