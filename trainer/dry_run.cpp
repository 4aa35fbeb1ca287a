#include "trainer/dry_run.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file_system.h"
#include "base/quantity.h"
#include "model/parameter_table.h"
#include "parallel/device.h"
#include "trainer/data_setup.h"
#include "trainer/memory_use.h"
#include "trainer/model_setup.h"
#include "trainer/run_folder.h"
#include "trainer/schedule_setup.h"

namespace swiattn {
namespace {

using CountActivations = int64_t (*)(Recompute recompute, const ModelConfig& config,
                                     const CausalLmOptions& options, at::ScalarType compute_type,
                                     int64_t tokens);

int64_t micro_batch_tokens(const RunConfig& config) {
  return config.train.micro_batch * config.data.sequence_length;
}

// What `count` gives for a micro-batch in each mode of train.recompute, on top of `base` bytes.
std::string describe_modes(CountActivations count, int64_t base, const RunConfig& config,
                           const ModelConfig& model, const CausalLmOptions& options) {
  const int64_t tokens = micro_batch_tokens(config);
  const auto bytes = [&](Recompute recompute) {
    return describe_bytes(base + count(recompute, model, options, compute_type(config), tokens));
  };
  return fmt::format("{} (train.recompute none: {}, selective: {}, layer: {})",
                     bytes(options.recompute), bytes(Recompute::kNone),
                     bytes(Recompute::kSelective), bytes(Recompute::kLayer));
}

#ifdef SWIATTN_CUDA
constexpr bool kForGpus = true;
#else
constexpr bool kForGpus = false;
#endif

// On a machine without a GPU, where a key may ask for one: why nothing computes here, if so.
std::string describe_cpu(const RunConfig& config, const ModelConfig& model, int ranks) {
  const c10::Device cpu(c10::kCPU);
  try {
    return describe_computing(config, model, cpu, ranks, *attention_backend(config, cpu));
  } catch (const Error& error) {
    return fmt::format("nothing. {}", error.what());
  }
}

std::string describe_devices(const RunConfig& config, const ModelConfig& model, c10::Device device,
                             bool gpu_is_missing, int ranks) {
  const auto backend = attention_backend(config, device);
  if (!gpu_is_missing) return describe_computing(config, model, device, ranks, *backend);
  return fmt::format(
      "on this machine, which has no GPU: {}\n#               on an H100 or H200: {}",
      describe_cpu(config, model, ranks), describe_choices(config, model, device, *backend));
}

// A line a source: how much of it there is, and how often the run goes over it.
std::string describe_data(const RunConfig& config, const BatchStream& stream) {
  double weights = 0.0;
  for (const DataSource& source : config.data.sources) weights += source.weight;
  const auto drawn = static_cast<double>(config.total_steps() * config.train.global_batch);
  std::string text;
  for (size_t i = 0; i < config.data.sources.size(); ++i) {
    const DataSource& source = config.data.sources[i];
    const int64_t samples = stream.samples(i);
    text += fmt::format("#   data        {}: {} samples of {} tokens, read {:.3g} times\n",
                        source.path, samples, config.data.sequence_length,
                        drawn * source.weight / weights / static_cast<double>(samples));
  }
  return text;
}

std::string describe_start(const RunConfig& config,
                           const std::optional<SavedCheckpoint>& checkpoint) {
  if (!checkpoint) return "#   starts      from the beginning\n";
  if (checkpoint->step() >= config.total_steps()) {
    return fmt::format("#   trains      no more: {} is of the last step, {}\n",
                       checkpoint->folder(), checkpoint->step());
  }
  return fmt::format("#   goes on     after step {}, from {}\n", checkpoint->step(),
                     checkpoint->folder());
}

std::string describe_schedule(const RunConfig& config) {
  const int64_t steps = config.total_steps();
  const Schedule schedule = make_schedule(config);
  std::string text = fmt::format("#   run         {} steps = {} tokens\n", steps,
                                 steps * config.tokens_per_step());
  text += "#   learning rate";
  for (const int64_t step :
       {int64_t{1}, schedule.warmup_steps, (steps + schedule.warmup_steps) / 2, steps}) {
    if (step >= 1) text += fmt::format("  step {}: {:.3g}", step, schedule.learning_rate(step));
  }
  return text + "\n";
}

}  // namespace

std::string describe_dry_run(const RunConfig& config,
                             const std::optional<SavedCheckpoint>& checkpoint,
                             const std::string& wanted, int ranks) {
  const c10::Device chosen = choose_device(wanted, 0);
  const bool gpu_is_missing = kForGpus && wanted.empty() && chosen.is_cpu();
  const c10::Device device = gpu_is_missing ? c10::Device(c10::kCUDA, 0) : chosen;
  const ModelConfig model = checkpoint ? read_model_config(checkpoint->path("config.json"))
                                       : starting_model_config(config);
  const std::string devices = describe_devices(config, model, device, gpu_is_missing, ranks);
  try_run_folder(FileSystem::posix(), config.run.folder);
  const std::vector<ParameterUnit> units = parameter_table(model, has_router(config));
  const auto frozen = frozen_tensors(units, config.train.freeze);
  const CausalLmOptions options = model_options(config, model);
  const ModelTokens tokens{model.vocab_size, starting_tokenizer_hash(config)};
  const BatchStream stream = training_stream(config, tokens, 0, ranks);
  validation_streams(config, tokens, 0, ranks);

  std::string text = print_run_config(config);
  text += "\n# Dry run\n";
  text += fmt::format("#   model       {}: {} layers, width {}, {}/{} heads of {}, vocabulary {}\n",
                      to_string(model.architecture), model.layers, model.hidden_size, model.heads,
                      model.kv_heads, model.head_dim, model.vocab_size);
  text += fmt::format("#   parameters  {} ({} of them in routers), {} tensors frozen\n",
                      model.parameter_count(has_router(config)),
                      has_router(config) ? model.layers * model.hidden_size : 0, frozen.size());
  const FlatParameters parameters(units, frozen, compute_type(config), c10::kMeta,
                                  FlatParameters::Purpose::kTraining, moment_type(config));
  const MemoryUse memory = memory_use(parameters);
  text += fmt::format("#   memory      {}; {} together\n", describe_memory(memory),
                      describe_bytes(memory.total()));
  text += fmt::format("#   activations kept by the layers for the backward of a micro-batch: {}\n",
                      describe_modes(kept_activations, 0, config, model, options));
  text += fmt::format(
      "#   peak        of a step, without the workspace of libraries and the batch: {}\n",
      describe_modes(peak_activations, memory.total(), config, model, options));
  if (replays_training(config, model, device)) {
    const int64_t kept = peak_activations(Recompute::kNone, model, options, compute_type(config),
                                          micro_batch_tokens(config));
    text += fmt::format(
        "#   graphs      CUDA graphs keep about {} beside that, if the GPU has so much free\n",
        describe_bytes(kept));
  }
  text += fmt::format("#   computes    {}\n", devices);
  text += fmt::format(
      "#   step        {} sequences of {} = {} tokens; {} micro-batches of {} on each of {} "
      "ranks\n",
      config.train.global_batch, config.data.sequence_length, config.tokens_per_step(),
      stream.micro_batches(), config.train.micro_batch, ranks);
  text += describe_data(config, stream);
  text += describe_schedule(config);
  for (const std::string& warning : start_warnings(config, model, device)) {
    text += fmt::format("#   warning     {}\n", warning);
  }
  return text + describe_start(config, checkpoint);
}

}  // namespace swiattn
