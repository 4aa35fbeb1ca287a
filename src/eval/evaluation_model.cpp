#include "eval/evaluation_model.h"

#include <algorithm>

#include "base/file_system.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/hf_import.h"
#include "checkpoint/saved_checkpoint.h"
#include "model/parameter_table.h"

namespace swiattn {
namespace {

HybridAttention choose_attention(const ModelConfig& config, const std::string& path,
                                 const AttentionOverride& wanted) {
  HybridAttention attention;
  attention.mode = "full";
  if (const auto own = read_hybrid_attention(config, path)) attention = *own;
  if (wanted.mode == "switch" && attention.mode != "switch") {
    fail(ExitCode::kConfiguration,
         "--mode switch needs a hybrid with routers, but {} attends in mode {}.", path,
         attention.mode);
  }
  if (wanted.mode == "static" && attention.mode != "static") {
    fail(ExitCode::kConfiguration,
         "--mode static needs a model that says which of its layers are full, but {} attends in "
         "mode "
         "{}.",
         path, attention.mode);
  }
  if (!wanted.mode.empty()) attention.mode = wanted.mode;
  if (wanted.window) attention.window = *wanted.window;
  return attention;
}

std::vector<LayerAttention> layers_of(const HybridAttention& attention, int64_t layers) {
  const LayerAttention everywhere = attention.mode == "full"     ? LayerAttention::kFull
                                    : attention.mode == "switch" ? LayerAttention::kSwitch
                                                                 : LayerAttention::kWindow;
  std::vector<LayerAttention> result(static_cast<size_t>(layers), everywhere);
  if (attention.mode == "static") {
    for (const int64_t layer : attention.full_layers) {
      result.at(static_cast<size_t>(layer - 1)) = LayerAttention::kFull;
    }
  }
  return result;
}

Gate gate_of(const HybridAttention& attention) {
  Gate gate;
  if (attention.gate == "random") gate.kind = GateKind::kRandom;
  if (attention.gate == "top_k") gate.kind = GateKind::kTopK;
  gate.ratio = attention.ratio.value_or(0.0);
  return gate;
}

}  // namespace

EvaluationModel::EvaluationModel(const std::string& path, const AttentionOverride& attention,
                                 c10::Device device)
    : path_(path) {
  if (file_exists(path + "/" + kManifestName)) {
    const SavedCheckpoint verified(path, CheckpointTest::kHashes);
  }
  const HfFolder folder(path);
  const ModelConfig& config = folder.config();
  require_routers(folder);
  attention_ = choose_attention(config, path, attention);
  const at::ScalarType type = device.is_cpu() ? at::kFloat : at::kBFloat16;
  parameters_ = std::make_unique<FlatParameters>(parameter_table(config, attention_.has_router()),
                                                 std::vector<std::string>{}, type, device,
                                                 FlatParameters::Purpose::kEvaluation);
  load_weights(folder, *parameters_, {});
  parameters_->refresh_compute_copies();
  CausalLmOptions options;
  options.attention = layers_of(attention_, config.layers);
  options.window = attention_.window;
  options.gate = gate_of(attention_);
  model_ =
      std::make_unique<CausalLm>(config, std::move(options), *parameters_, operations_for(device),
                                 make_attention_backend("auto", device, type));
}

}  // namespace swiattn
