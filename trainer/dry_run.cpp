#include "trainer/dry_run.h"

#include <fmt/ranges.h>

#include <sstream>
#include <utility>

#include "base/error.h"
#include "base/file_system.h"
#include "base/folder_lock.h"
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

using OrderedJson = nlohmann::ordered_json;

using CountActivations = int64_t (*)(Recompute recompute, const ModelConfig& config,
                                     const CausalLmOptions& options, at::ScalarType compute_type,
                                     int64_t tokens);

int64_t micro_batch_tokens(const RunConfig& config) {
  return config.train.micro_batch * config.data.sequence_length;
}

// What `count` gives for a micro-batch in each mode of train.recompute, on top of `base` bytes.
DryRunFact fact_by_mode(const char* key, const char* label, std::string_view what,
                        CountActivations count, int64_t base, const RunConfig& config,
                        const ModelConfig& model, const CausalLmOptions& options) {
  const int64_t tokens = micro_batch_tokens(config);
  const auto bytes = [&](Recompute recompute) {
    return base + count(recompute, model, options, compute_type(config), tokens);
  };
  const int64_t none = bytes(Recompute::kNone), selective = bytes(Recompute::kSelective),
                layer = bytes(Recompute::kLayer);
  return {key,
          label,
          fmt::format("{}: {} (train.recompute none: {}, selective: {}, layer: {})", what,
                      describe_bytes(bytes(options.recompute)), describe_bytes(none),
                      describe_bytes(selective), describe_bytes(layer)),
          {{"none", none}, {"selective", selective}, {"layer", layer}}};
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

// A line for this machine, and where it lacks a GPU that the program was built for, one for that.
std::string describe_devices(const RunConfig& config, const ModelConfig& model, c10::Device device,
                             bool gpu_is_missing, int ranks) {
  const auto backend = attention_backend(config, device);
  if (!gpu_is_missing) return describe_computing(config, model, device, ranks, *backend);
  return fmt::format("on this machine, which has no GPU: {}\non an H100 or H200: {}",
                     describe_cpu(config, model, ranks),
                     describe_choices(config, model, device, *backend));
}

// "llama: 30 layers, width 576, 9/3 heads of 64, vocabulary 49152".
std::string describe_shape(const ModelConfig& model) {
  return fmt::format("{}: {} layers, width {}, {}/{} heads of {}, vocabulary {}",
                     to_string(model.architecture), model.layers, model.hidden_size, model.heads,
                     model.kv_heads, model.head_dim, model.vocab_size);
}

DryRunFact model_fact(const ModelConfig& model) {
  return {"model",
          "model",
          describe_shape(model),
          {{"architecture", to_string(model.architecture)},
           {"layers", model.layers},
           {"hidden_size", model.hidden_size},
           {"heads", model.heads},
           {"kv_heads", model.kv_heads},
           {"head_dim", model.head_dim},
           {"vocab_size", model.vocab_size}}};
}

DryRunFact parameters_fact(const RunConfig& config, const ModelConfig& model,
                           size_t frozen_tensors) {
  const int64_t count = model.parameter_count(has_router(config));
  const int64_t in_routers = has_router(config) ? model.layers * model.hidden_size : 0;
  return {"parameters",
          "parameters",
          fmt::format("{} ({} of them in routers), {} tensors frozen", count, in_routers,
                      frozen_tensors),
          {{"all", count}, {"in_routers", in_routers}, {"frozen_tensors", frozen_tensors}}};
}

DryRunFact step_fact(const RunConfig& config, int64_t micro_batches, int ranks) {
  return {
      "step",
      "step",
      fmt::format("{} sequences of {} = {} tokens; {} micro-batches of {} on each of {} ranks",
                  config.train.global_batch, config.data.sequence_length, config.tokens_per_step(),
                  micro_batches, config.train.micro_batch, ranks),
      {{"tokens", config.tokens_per_step()}, {"micro_batches", micro_batches}, {"ranks", ranks}}};
}

// A line a source: how much of it there is, and how often the run goes over it.
DryRunFact data_fact(const RunConfig& config, const BatchStream& stream) {
  double weights = 0.0;
  for (const DataSource& source : config.data.sources) weights += source.weight;
  const auto drawn = static_cast<double>(config.total_steps() * config.train.global_batch);
  DryRunFact fact{"data", "data", "", OrderedJson::array()};
  for (size_t i = 0; i < config.data.sources.size(); ++i) {
    const DataSource& source = config.data.sources[i];
    const int64_t samples = stream.samples(i);
    const double passes = drawn * source.weight / weights / static_cast<double>(samples);
    if (i > 0) fact.text += "\n";
    fact.text += fmt::format("{}: {} samples of {} tokens, read {:.3g} times", source.path, samples,
                             config.data.sequence_length, passes);
    fact.value.push_back({{"path", source.path}, {"samples", samples}, {"passes", passes}});
  }
  return fact;
}

DryRunFact start_fact(const RunConfig& config, const std::optional<SavedCheckpoint>& checkpoint) {
  if (!checkpoint) {
    return {"start", "starts", "from the beginning", {{"step", 0}, {"checkpoint", nullptr}}};
  }
  const int64_t step = checkpoint->step();
  const std::string& folder = checkpoint->folder();
  OrderedJson value = {{"step", step}, {"checkpoint", folder}};
  if (step >= config.total_steps()) {
    return {
        "start", "trains",
        fmt::format("no more: {} is of the last step, {}; a start does what is missing after it",
                    folder, step),
        std::move(value)};
  }
  return {"start", "goes on", fmt::format("after step {}, from {}", step, folder),
          std::move(value)};
}

DryRunFact run_fact(const RunConfig& config) {
  const int64_t steps = config.total_steps(), tokens = steps * config.tokens_per_step();
  return {"run",
          "run",
          fmt::format("{} steps = {} tokens", steps, tokens),
          {{"steps", steps}, {"tokens", tokens}}};
}

DryRunFact learning_rate_fact(const RunConfig& config) {
  const int64_t steps = config.total_steps();
  const Schedule schedule = make_schedule(config);
  DryRunFact fact{"learning_rate", "learning rate", "", OrderedJson::array()};
  for (const int64_t step :
       {int64_t{1}, schedule.warmup_steps, (steps + schedule.warmup_steps) / 2, steps}) {
    if (step < 1) continue;
    const double rate = schedule.learning_rate(step);
    if (!fact.text.empty()) fact.text += "  ";
    fact.text += fmt::format("step {}: {:.3g}", step, rate);
    fact.value.push_back({{"step", step}, {"learning_rate", rate}});
  }
  return fact;
}

}  // namespace

std::vector<DryRunFact> dry_run(const RunConfig& config,
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

  std::vector<DryRunFact> facts;
  facts.push_back(model_fact(model));
  facts.push_back(parameters_fact(config, model, frozen.size()));
  const FlatParameters parameters(units, frozen, compute_type(config), c10::kMeta,
                                  FlatParameters::Purpose::kTraining, moment_type(config));
  const MemoryUse memory = memory_use(parameters);
  facts.push_back(
      {"memory",
       "memory",
       fmt::format("{}; {} together", describe_memory(memory), describe_bytes(memory.total())),
       {{"weights", memory.weights},
        {"gradients", memory.gradients},
        {"moments", memory.moments}}});
  facts.push_back(fact_by_mode("activations", "activations",
                               "kept by the layers for the backward of a micro-batch",
                               kept_activations, 0, config, model, options));
  facts.push_back(fact_by_mode("peak", "peak",
                               "of a step, without the workspace of libraries and the batch",
                               peak_activations, memory.total(), config, model, options));
  if (replays_training(config, model, device)) {
    const int64_t kept = peak_activations(Recompute::kNone, model, options, compute_type(config),
                                          micro_batch_tokens(config));
    facts.push_back(
        {"graphs", "graphs",
         fmt::format("CUDA graphs keep about {} beside that, if the GPU has so much free",
                     describe_bytes(kept)),
         kept});
  }
  facts.push_back({"computes", "computes", devices, devices});
  facts.push_back(step_fact(config, stream.micro_batches(), ranks));
  facts.push_back(data_fact(config, stream));
  facts.push_back(run_fact(config));
  facts.push_back(learning_rate_fact(config));
  std::vector<std::string> warnings = start_warnings(config, model, device);
  if (const auto holder = FolderLock::holder(config.run.folder)) {
    warnings.push_back(fmt::format(
        "run.folder: '{}' is in use by {}: a start would wait a little for its end, and "
        "then refuse.",
        config.run.folder, *holder));
  }
  facts.push_back({"warnings", "warning", fmt::format("{}", fmt::join(warnings, "\n")), warnings});
  facts.push_back(start_fact(config, checkpoint));
  return facts;
}

std::string dry_run_text(const RunConfig& config, const std::vector<DryRunFact>& facts) {
  std::string text = print_run_config(config) + "\n# Dry run\n";
  for (const DryRunFact& fact : facts) {
    std::istringstream lines(fact.text);
    for (std::string line; std::getline(lines, line);) {
      text += fmt::format("#   {:<11} {}\n", fact.label, line);
    }
  }
  return text;
}

OrderedJson dry_run_json(const RunConfig& config, const std::vector<DryRunFact>& facts) {
  OrderedJson values = OrderedJson::object();
  for (const DryRunFact& fact : facts) values[fact.key] = fact.value;
  return {{"config", run_config_json(config)}, {"dry_run", std::move(values)}};
}

}  // namespace swiattn
