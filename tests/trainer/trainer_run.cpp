#include "trainer_run.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>

#include "../base/recording_log.h"
#include "../model/small_models.h"
#include "base/file_system.h"
#include "checkpoint/hf_import.h"
#include "parallel/agreement.h"
#include "small_run.h"
#include "trainer/model_setup.h"

namespace swiattn {
namespace {

class Scribe final : public RunObserver {
 public:
  Scribe(Transcript& transcript, const std::function<void(int64_t)>& on_step)
      : transcript_(transcript), on_step_(on_step) {}

  void enter(int64_t step, std::string_view phase) override {
    if (phase == "save") transcript_.calls.push_back(fmt::format("save {}", step));
    if (phase != "forward and backward") return;
    if (on_step_) on_step_(step);
    transcript_.calls.push_back(fmt::format("enter {}", step));
  }
  void record(const StepMetrics& metrics, const std::vector<RoutingRow>& routing) override {
    transcript_.calls.push_back(fmt::format("record {}", metrics.step));
    transcript_.steps.push_back(metrics);
    StepMetrics timeless = metrics;
    timeless.step_seconds = timeless.data_seconds = timeless.tokens_per_second = 0.0;
    timeless.mfu = timeless.memory_gib = 0.0;
    transcript_.lines.push_back(to_json_line(timeless));
    for (const RoutingRow& row : routing) {
      transcript_.lines.push_back(fmt::format("{} {} {} {} {}", row.layer, row.full_ratio,
                                              row.logit_mean, row.entropy, row.disagreement_mean));
    }
  }
  void record(const ValidationMetrics& metrics) override {
    transcript_.calls.push_back(fmt::format("validation {}", metrics.step));
    transcript_.lines.push_back(to_json_line(metrics));
  }
  void tell(const std::string& sentence) override { transcript_.told.push_back(sentence); }
  void warn(const std::string& sentence) override { transcript_.lines.push_back(sentence); }

 private:
  Transcript& transcript_;
  const std::function<void(int64_t)>& on_step_;
};

// Rank 0 of two. The other one has no tokens and does what the test wants.
class TwoRanks final : public Communicator {
 public:
  TwoRanks(OtherRank other, int64_t steps_before) : other_(std::move(other)), step_(steps_before) {}

  int rank() const override { return 0; }
  int size() const override { return 2; }
  void all_reduce(at::Tensor& tensor) override {
    if (tensor.scalar_type() != at::kDouble) {
      if (!reducing_) ++step_;
      const bool spoils =
          std::find(other_.spoils.begin(), other_.spoils.end(), step_) != other_.spoils.end();
      if (!reducing_ && spoils) {
        tensor.select(0, 0).fill_(std::numeric_limits<double>::quiet_NaN());
      }
      reducing_ = true;
    } else if (reducing_) {  // a step's sums: NLL, counted targets, the wish to stop, …
      reducing_ = false;
      if (step_ == other_.stops) tensor.select(0, 2).fill_(1.0);
    } else if (tensor.numel() == 1 && step_ == other_.stops_in_validation) {
      if (++questions_ >= other_.at_question) tensor.fill_(1.0);
    }
  }
  void broadcast(at::Tensor&, int) override {}
  std::string broadcast_text(const std::string& text, int) override { return text; }
  std::vector<std::string> all_gather_text(const std::string& text) override { return {text, ""}; }

 private:
  const OtherRank other_;
  int64_t step_;
  int64_t questions_ = 0;  // in that validation
  bool reducing_ = false;  // between a step's first gradients and its sums
};

std::unique_ptr<Communicator> make_ranks(const std::optional<OtherRank>& other, int64_t before) {
  if (!other) return make_single_communicator();
  return std::make_unique<TwoRanks>(*other, before);
}

}  // namespace

TrainerRun::TrainerRun(const ModelConfig& model, const std::string& text, int64_t sequence_length,
                       const std::vector<int32_t>& tokens) {
  auto weights = random_weights(model, false, 5);
  // As a trained model has them, so that bfloat16's rounding stays noise.
  for (auto& [name, tensor] : weights) {
    if (tensor.dim() == 2) tensor.mul_(0.2);
  }
  write_model_folder(root() + "/base", model, weights);
  write_flat_shard(root() + "/tokens.bin", tokens);
  std::ofstream(root() + "/run.yaml") << fmt::format(
      "run: {{folder: {0}/run}}\n"
      "data: {{sequence_length: {1}, shuffle: false,\n"
      "       sources: [{{path: {0}/tokens.bin, eos_id: {2}}}],\n"
      "       validation: [{{name: held, path: {0}/tokens.bin, eos_id: {2}}}]}}\n"
      "{3}",
      root(), sequence_length, model.vocab_size - 1, text);
}

RunConfig TrainerRun::config(const std::string& name, std::vector<std::string> overrides) const {
  overrides.push_back(fmt::format("--run.folder={}/{}", root(), name));
  overrides.push_back(fmt::format("--model.init_from={}/base", root()));
  return read_run_config(root() + "/run.yaml", overrides);
}

Transcript TrainerRun::train(const std::string& name, const Options& options) const {
  const c10::InferenceMode no_autograd;
  const RunConfig config = this->config(name, options.overrides);
  const ModelConfig model_config = starting_model_config(config);
  const auto units = parameter_table(model_config, has_router(config));
  FlatParameters parameters(units, frozen_tensors(units, config.train.freeze), compute_type(config),
                            options.device, FlatParameters::Purpose::kTraining,
                            moment_type(config));
  CausalLm model(model_config, model_options(config, model_config), parameters,
                 operations_for(options.device),
                 make_attention_backend("auto", options.device, compute_type(config)));

  RecordingLog log;
  FileSystem& files = FileSystem::posix();
  CheckpointStore store(files, config.run.folder + "/checkpoints", log);
  TrainingProgress progress;
  progress.gamma = config.regularizer.gamma;
  if (const auto checkpoint = store.newest_valid()) {
    progress = read_progress(*checkpoint);
    load_training_checkpoint(*checkpoint, parameters);
  } else {
    load_weights(HfFolder(*config.model.init_from), parameters,
                 {static_cast<uint64_t>(config.run.seed), config.router.init_std});
  }
  parameters.refresh_compute_copies();

  Transcript transcript;
  Scribe scribe(transcript, options.on_step);
  Watchdog watchdog(300, [](const std::string&) { std::abort(); });
  const auto communicator = make_ranks(options.other, progress.step);
  std::optional<Profiler> profiler;
  if (options.profile) {
    profiler.emplace(files, config.run.folder + "/profile", *config.log.profile, options.device,
                     "device", scribe);
  }
  std::optional<CapturedTraining> captured;
  if (options.captured) {
    captured.emplace(model, parameters, [&](const std::string& why) { scribe.warn(why); });
  }
  const ModelTokens tokens{model_config.vocab_size, ""};
  Trainer trainer(
      {config, *communicator, model, parameters, scribe, watchdog, &store,
       profiler ? &*profiler : nullptr, std::nullopt, captured ? &*captured : nullptr, options.lag},
      {progress, progress.step > 0, options.validated}, training_stream(config, tokens, 0, 1),
      validation_streams(config, tokens, 0, 1));
  try {
    transcript.outcome = trainer.run();
  } catch (const Error& error) {
    transcript.error = error.what();
    transcript.code = error.code();
    transcript.agreed = dynamic_cast<const AgreedError*>(&error) != nullptr;
  }
  transcript.progress = trainer.progress();
  if (captured) transcript.replays = captured->replays();
  return transcript;
}

std::string TrainerRun::checkpoint(const std::string& name) const {
  RecordingLog log;
  CheckpointStore store(FileSystem::posix(), root() + "/" + name + "/checkpoints", log);
  const auto newest = store.newest_valid();
  if (!newest) return "";
  std::string bytes;
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "training.json"}) {
    bytes += read_file(newest->path(file), ExitCode::kCheckpoint);
  }
  return bytes;
}

}  // namespace swiattn
