#include "trainer/model_setup.h"

#include <c10/core/ScalarType.h>
#include <fmt/format.h>

#include "base/file_system.h"
#include "base/text.h"
#include "checkpoint/hf_folder.h"
#include "loss/regularizer.h"
#include "model/captured_training.h"
#include "model/parameter_table.h"
#include "parallel/device.h"

namespace swiattn {
namespace {

std::vector<LayerAttention> layer_attention(const AttentionSection& attention, int64_t layers) {
  using Mode = AttentionSection::Mode;
  switch (attention.mode) {
    case Mode::kFull:
      return std::vector(static_cast<size_t>(layers), LayerAttention::kFull);
    case Mode::kSwitch:
      return std::vector(static_cast<size_t>(layers), LayerAttention::kSwitch);
    case Mode::kWindow:
    case Mode::kStatic:
      break;
  }
  std::vector<LayerAttention> result(static_cast<size_t>(layers), LayerAttention::kWindow);
  for (const int64_t layer : attention.full_layers) {
    if (layer < 1 || layer > layers) {
      fail(ExitCode::kConfiguration,
           "attention.full_layers names layer {}, but the model has layers 1 to {}.", layer,
           layers);
    }
    result[static_cast<size_t>(layer - 1)] = LayerAttention::kFull;
  }
  return result;
}

GateKind gate_kind(RouterSection::Gate gate) {
  switch (gate) {
    case RouterSection::Gate::kRandom:
      return GateKind::kRandom;
    case RouterSection::Gate::kTopK:
      return GateKind::kTopK;
    case RouterSection::Gate::kLearned:
      break;
  }
  return GateKind::kLearned;
}

std::optional<FarSampling> far_sampling(const AttentionSection& attention) {
  const FarSamplingKeys& keys = attention.far_sampling;
  if (!keys.enabled) return std::nullopt;
  return FarSampling{keys.minimum, keys.scale};
}

RegularizerKind regularizer_kind(RegularizerSection::Kind kind) {
  using Kind = RegularizerSection::Kind;
  switch (kind) {
    case Kind::kConstant:
      return RegularizerKind::kConstant;
    case Kind::kNoNll:
      return RegularizerKind::kNoNll;
    case Kind::kNoDisagreement:
      return RegularizerKind::kNoDisagreement;
    case Kind::kTargetRatio:
      return RegularizerKind::kTargetRatio;
    case Kind::kNone:
      return RegularizerKind::kNone;
    case Kind::kAdaptive:
      break;
  }
  return RegularizerKind::kAdaptive;
}

std::string backend_name(AttentionSection::Backend backend) {
  switch (backend) {
    case AttentionSection::Backend::kReference:
      return "reference";
    case AttentionSection::Backend::kLibrary:
      return "library";
    case AttentionSection::Backend::kFused:
      return "fused";
    case AttentionSection::Backend::kAuto:
      break;
  }
  return "auto";
}

// Whether repeating the same bits is known to cost a GPU at most 5 % of a step. Where tokens
// choose, our own backward is taken in any case; instead of the library's, which uses atomics, it
// was measured on Hopper in a short window and at short lengths (docs/benchmarks).
bool is_cheaply_deterministic(const RunConfig& config, const ModelConfig& model, bool hopper) {
  constexpr int64_t kShort = 4096;
  using Mode = AttentionSection::Mode;
  const Mode mode = config.attention.mode;
  const auto backend = config.attention.backend;
  const bool ours = (backend == AttentionSection::Backend::kAuto ||
                     backend == AttentionSection::Backend::kFused) &&
                    config.model.compute == ModelSection::Compute::kBfloat16 &&
                    has_own_kernels(model.head_dim);
  const int64_t length = config.data.sequence_length;
  const int64_t reach = mode == Mode::kWindow ? std::min(config.attention.window, length) : length;
  return ours && (mode == Mode::kSwitch || (hopper && reach <= kShort));
}

std::optional<std::string> same_branches_warning(const RunConfig& config) {
  const int64_t window = config.attention.window, length = config.data.sequence_length;
  if (config.attention.mode != AttentionSection::Mode::kSwitch || window < length) {
    return std::nullopt;
  }
  return fmt::format(
      "attention.window ({}) is not below data.sequence_length ({}): both branches of attention "
      "see the same keys, and the router learns nothing from the loss. Choose a smaller window, or "
      "longer sequences.",
      window, length);
}

Recompute recompute_of(TrainSection::Recompute recompute) {
  switch (recompute) {
    case TrainSection::Recompute::kSelective:
      return Recompute::kSelective;
    case TrainSection::Recompute::kLayer:
      return Recompute::kLayer;
    case TrainSection::Recompute::kNone:
      break;
  }
  return Recompute::kNone;
}

}  // namespace

ModelConfig starting_model_config(const RunConfig& config) {
  ModelConfig model;
  if (config.model.init_from) {
    const HfFolder folder(*config.model.init_from);
    model = folder.config();
    // A checkpoint holds float32 masters; its config.json says what the export is to be.
    if (!file_exists(*config.model.init_from + "/MANIFEST.json")) model.dtype = folder.dtype();
  } else {
    model = read_model_config(*config.model.architecture);
  }
  if (config.model.rope_scaling) extend_context(model, *config.model.rope_scaling);
  return model;
}

CausalLmOptions model_options(const RunConfig& config, const ModelConfig& model) {
  CausalLmOptions options;
  options.attention = layer_attention(config.attention, model.layers);
  options.window = config.attention.window;
  options.gate = {gate_kind(config.router.gate), config.router.ratio.value_or(0.0),
                  static_cast<uint64_t>(config.run.seed), far_sampling(config.attention)};
  const RegularizerSection& r = config.regularizer;
  const bool sum = r.disagreement == RegularizerSection::Disagreement::kSum;
  options.objective = {gamma_coefficients({regularizer_kind(r.kind), r.gamma, r.eps, r.alpha}),
                       sum ? DisagreementReduction::kSum : DisagreementReduction::kMean,
                       r.detach_gamma};
  options.recompute = recompute_of(config.train.recompute);
  return options;
}

bool replays_training(const RunConfig& config, const ModelConfig& model, c10::Device device) {
  return device.is_cuda() && compute_type(config) == at::kBFloat16 &&
         config.train.recompute == TrainSection::Recompute::kNone && !steers_ratio(config) &&
         is_bound_by_launches(config.train.micro_batch * config.data.sequence_length,
                              model.hidden_size);
}

bool is_deterministic(const RunConfig& config, const ModelConfig& model, c10::Device device,
                      bool hopper) {
  using Choice = NumericsSection::Deterministic;
  const Choice choice = config.numerics.deterministic;
  if (device.is_cpu()) return choice != Choice::kFalse;
  return choice == Choice::kTrue ||
         (choice == Choice::kAuto && is_cheaply_deterministic(config, model, hopper));
}

std::unique_ptr<AttentionBackend> attention_backend(const RunConfig& config, c10::Device device,
                                                    const AttentionNotice& notice) {
  return make_attention_backend(backend_name(config.attention.backend), device,
                                compute_type(config), notice);
}

std::string describe_choices(const RunConfig& config, const ModelConfig& model, c10::Device device,
                             const AttentionBackend& backend) {
  const bool deterministic = is_deterministic(config, model, device, is_hopper(device));
  return fmt::format("attention: {}; {}{}", backend.name(),
                     deterministic ? "deterministic" : "not deterministic",
                     replays_training(config, model, device) ? "; CUDA graphs" : "");
}

std::string describe_computing(const RunConfig& config, const ModelConfig& model,
                               c10::Device device, int ranks, const AttentionBackend& backend) {
  return fmt::format("{} on {}; {}", ranks == 1 ? "1 rank" : fmt::format("{} ranks", ranks),
                     device_facts(device).name, describe_choices(config, model, device, backend));
}

std::vector<std::string> start_warnings(const RunConfig& config, const ModelConfig& model,
                                        c10::Device device) {
  std::vector<std::string> warnings;
  for (auto& warning :
       {far_sampling_warning(config, model, device), same_branches_warning(config)}) {
    if (warning) warnings.push_back(*warning);
  }
  return warnings;
}

std::optional<std::string> far_sampling_warning(const RunConfig& config, const ModelConfig& model,
                                                c10::Device device) {
  if (!config.attention.far_sampling.enabled) return std::nullopt;
  using Backend = AttentionSection::Backend;
  const Backend backend = config.attention.backend;
  std::string where, instead;
  if (!has_own_kernels(model.head_dim)) {
    where = fmt::format("with heads of {} (there are kernels for 64 and 128)", model.head_dim);
  } else if (device.is_cpu()) {
    where = "on a CPU";
    instead = "train on a GPU in bfloat16, or ";
  } else if (compute_type(config) != at::kBFloat16) {
    where = "in float32";
    instead = "set model.compute to bfloat16, or ";
  } else if (backend != Backend::kAuto && backend != Backend::kFused) {
    where = "with this attention.backend";
    instead = "set it to auto, or ";
  } else {
    return std::nullopt;
  }
  return fmt::format(
      "attention.far_sampling saves no time {}: the far keys of every token are read as without "
      "it, and what it adds is the noise of a sample; {}set attention.far_sampling to "
      "{{enabled: false}}.",
      where, instead);
}

HybridAttention hybrid_attention(const RunConfig& config) {
  HybridAttention result;
  using Mode = AttentionSection::Mode;
  switch (config.attention.mode) {
    case Mode::kFull:
      result.mode = "full";
      break;
    case Mode::kWindow:
      result.mode = "window";
      break;
    case Mode::kStatic:
      result.mode = "static";
      break;
    case Mode::kSwitch:
      result.mode = "switch";
      break;
  }
  result.window = config.attention.window;
  result.full_layers = config.attention.full_layers;
  if (config.attention.mode == Mode::kSwitch) {
    switch (config.router.gate) {
      case RouterSection::Gate::kLearned:
        result.gate = "learned";
        break;
      case RouterSection::Gate::kRandom:
        result.gate = "random";
        break;
      case RouterSection::Gate::kTopK:
        result.gate = "top_k";
        break;
    }
    result.ratio = config.router.ratio;
  }
  return result;
}

bool has_router(const RunConfig& config) { return hybrid_attention(config).has_router(); }

bool steers_ratio(const RunConfig& config) {
  return has_router(config) && config.regularizer.kind == RegularizerSection::Kind::kTargetRatio;
}

std::vector<std::string> frozen_tensors(const std::vector<ParameterUnit>& units,
                                        const std::vector<std::string>& globs) {
  std::vector<bool> matched(globs.size(), false);
  std::vector<std::string> frozen;
  bool any_trained = false;
  for (const ParameterUnit& unit : units) {
    for (const ParameterGroup& group : unit.groups) {
      for (const ParameterSpec& spec : group.members) {
        bool is_frozen = false;
        for (size_t i = 0; i < globs.size(); ++i) {
          const bool frees = globs[i].starts_with('!');
          if (!glob_matches(frees ? globs[i].substr(1) : globs[i], spec.name)) continue;
          matched[i] = true;
          is_frozen = !frees;
        }
        if (is_frozen) frozen.push_back(spec.name);
        any_trained = any_trained || !is_frozen;
      }
    }
  }
  for (size_t i = 0; i < globs.size(); ++i) {
    if (!matched[i]) {
      fail(ExitCode::kConfiguration,
           "train.freeze: \"{}\" matches no tensor of the model; names look like {}.", globs[i],
           units[1].groups.front().members.front().name);
    }
  }
  if (!any_trained) {
    fail(ExitCode::kConfiguration,
         "train.freeze freezes every tensor, so that there is nothing to train; free some with "
         "\"!glob\".");
  }
  return frozen;
}

at::ScalarType compute_type(const RunConfig& config) {
  return config.model.compute == ModelSection::Compute::kFloat32 ? at::kFloat : at::kBFloat16;
}

at::ScalarType moment_type(const RunConfig& config) {
  return config.optimizer.moments == OptimizerSection::Moments::kFloat32 ? at::kFloat
                                                                         : at::kBFloat16;
}

}  // namespace swiattn
