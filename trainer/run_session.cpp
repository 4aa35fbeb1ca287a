#include "trainer/run_session.h"

#include <c10/core/InferenceMode.h>
#include <fmt/ranges.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>

#include "base/file_system.h"
#include "base/path_aside.h"
#include "base/version.h"
#include "checkpoint/export_config.h"
#include "checkpoint/hf_export.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/hf_import.h"
#include "model/parameter_table.h"
#include "parallel/agreement.h"
#include "parallel/device.h"
#include "parallel/torch_errors.h"
#include "parallel/watched_communicator.h"
#include "trainer/environment.h"
#include "trainer/model_setup.h"
#include "trainer/report.h"
#include "trainer/resume_rules.h"
#include "trainer/run_recorder.h"
#include "trainer/run_result.h"
#include "trainer/signals.h"
#include "trainer/trainer.h"
#ifdef SWIATTN_CUDA
#include "parallel/nccl_communicator.h"
#endif

namespace swiattn {
namespace {

// What rank 0 alone has: the run's folder with its lock, and the checkpoints.
struct RootFiles {
  RunFolder folder;
  CheckpointStore store;
  std::optional<SavedCheckpoint> checkpoint;  // to go on from

  RootFiles(const RunConfig& config, Log& log)
      : folder(FileSystem::posix(), config.run.folder),
        store(FileSystem::posix(), folder.checkpoints(), log) {}
};

// Everything a run needs on this rank, in the order in which it is made.
struct Surroundings {
  const RunConfig& config;
  Communicator& communicator;
  Watchdog& watchdog;
  c10::Device device;
  const DeviceFacts& facts;
  std::optional<RootFiles>& root;
  ConsoleLog& log;
  const TrainArguments& arguments;
};

// Where the run begins, known to all ranks.
struct Start {
  TrainingProgress progress;
  ModelConfig model;
  std::string tokenizer_hash;          // of the starting folder; "" when it is not known
  bool own = false;                    // whether it is one of this run's checkpoints …
  bool newest = false;                 // … and the last of these
  std::vector<std::string> validated;  // where its step is to be: the sets with recorded results
  bool exported = false;               // whether the export in the run's folder is of this progress

  bool is_trained(const RunConfig& config) const { return progress.step >= config.total_steps(); }
  bool is_validated(const RunConfig& config) const {
    const auto& sets = config.data.validation;
    return std::all_of(sets.begin(), sets.end(), [&](const ValidationSet& set) {
      return std::find(validated.begin(), validated.end(), set.name) != validated.end();
    });
  }
};

// How it ended.
struct End {
  RunOutcome outcome = RunOutcome::kFinished;
  TrainingProgress progress;
  bool saved = true;  // false: a disk was full at the last save
};

// Ranks read files of their own hosts. Where these differ, or one host has no GPU, they would train
// models that differ, or wait for each other in different ways.
void agree_on_setting(Communicator& host, const RunConfig& config, c10::Device device) {
  if (host.size() == 1) return;
  const std::string here = device.is_cpu() ? "CPU" : "GPU";
  const std::string on_root = host.broadcast_text(here, 0);
  const std::string of_root = host.broadcast_text(print_run_config(config), 0);
  agree(host, [&] {
    if (here != on_root) {
      fail(ExitCode::kConfiguration,
           "This rank computes on a {} and rank 0 on a {}: give each rank a GPU, or --device cpu.",
           here, on_root);
    }
    const RunConfig roots = parse_run_config(of_root, "rank 0's configuration", {});
    const std::vector<ConfigChange> differences = config_changes(roots, config);
    if (differences.empty()) return;
    fail(ExitCode::kConfiguration,
         "This rank has {} {} where rank 0 has {}: start all ranks with the same file and flags.",
         differences[0].key, differences[0].after, differences[0].before);
  });
}

// Ranks read shards of their own hosts. Where these differ in length, the samples would not be
// those of one order, and a validation not of as many batches everywhere.
void agree_on_data(Communicator& communicator, const RunConfig& config, const BatchStream& stream,
                   const std::vector<NamedStream>& validation) {
  if (communicator.size() == 1) return;
  std::string difference;  // the first
  const auto compare = [&](const std::string& path, int64_t samples) {
    const std::string here = std::to_string(samples);
    const std::string on_root = communicator.broadcast_text(here, 0);
    if (here == on_root || !difference.empty()) return;
    difference = fmt::format("{} samples of {} tokens in {} where rank 0 finds {}", here,
                             config.data.sequence_length, path, on_root);
  };
  for (size_t i = 0; i < config.data.sources.size(); ++i) {
    compare(config.data.sources[i].path, stream.samples(i));
  }
  for (size_t i = 0; i < validation.size(); ++i) {
    compare(config.data.validation[i].path, validation[i].stream.samples(0));
  }
  agree(communicator, [&] {
    if (difference.empty()) return;
    fail(ExitCode::kData, "This rank finds {}: give all hosts the same shards.", difference);
  });
}

// Between the devices of the ranks that `host` joins.
std::unique_ptr<Communicator> make_communicator(std::unique_ptr<Communicator> host,
                                                c10::Device device, Watchdog& watchdog) {
#ifdef SWIATTN_CUDA
  if (device.is_cuda() && host->size() > 1) {
    const Watchdog::Watch watch(watchdog, "the other ranks to join NCCL");
    return make_nccl_communicator(std::move(host), device);
  }
#endif
  return host;
}

void find_checkpoint(RootFiles& root, const std::string& resume) {
  if (resume == "never") return refuse_run_in(root.folder.path());
  if (resume != "auto") {
    root.checkpoint = named_checkpoint(resume, root.folder.path(), CheckpointTest::kHashes);
    return;
  }
  root.store.remove_leftovers();
  root.checkpoint = root.store.newest_valid();
}

void describe_run(const TrainArguments& arguments, RootFiles& root, const Surroundings& s) {
  ProgramFacts facts;
  facts.command_line = arguments.command_line;
  facts.versions = {{"swiattn", kVersion}, {"torch", TORCH_VERSION}};
  if (s.device.is_cuda()) facts.gpus = {s.facts.name};
  facts.ranks = s.communicator.size();
  root.folder.describe(read_file(arguments.config_path, ExitCode::kConfiguration),
                       print_run_config(s.config), describe_environment(facts));
}

// Rank 0 takes the run's folder and looks for a checkpoint there. Returns what has changed in the
// configuration since it was saved.
std::vector<ConfigChange> open_run(const TrainArguments& arguments, const Surroundings& s) {
  std::vector<ConfigChange> changes;
  agree_on_root(s.communicator, [&] {
    RootFiles& root = s.root.emplace(s.config, s.log);
    find_checkpoint(root, arguments.resume);
    if (root.checkpoint) {
      changes = compare_configs(*root.checkpoint, s.config, arguments.allowed_changes);
    }
    describe_run(arguments, root, s);
    s.log.attach_file(root.folder.log());
  });
  return changes;
}

// Whether the checkpoint is the run's: --resume may name another run's.
bool is_own(const RootFiles& root) {
  std::error_code missing;
  return std::filesystem::equivalent(root.checkpoint->folder(),
                                     root.store.path(root.checkpoint->step()), missing);
}

// Checkpoints of later steps, and an export of another state than the one that is to come, keep
// their bytes under another name. Called when nothing more can refuse the start. The export first:
// after a kill in between, the next start sees that one is missing, but not of which step one is.
void set_outdated_aside(RootFiles& root, const Start& start, Log& log) {
  const int64_t step = start.progress.step;
  if (!start.exported && folder_exists(root.folder.hybrid())) {
    set_aside(FileSystem::posix(), log, root.folder.path(), "hybrid", "superseded",
              fmt::format("The run goes on from step {}, and {} is of another one.", step,
                          root.folder.hybrid()));
  }
  root.store.set_newer_aside(step);
}

// Rank 0 looks for a checkpoint and tells the others what it found, so that they need none of its
// files.
Start agree_on_start(const RunConfig& config, const std::optional<RootFiles>& root,
                     Communicator& communicator) {
  std::string text;
  agree_on_root(communicator, [&] {
    TrainingProgress progress;
    progress.gamma = config.regularizer.gamma;
    ModelConfig model;
    if (root->checkpoint) {
      progress = read_progress(*root->checkpoint);
      // Moved by kind target_ratio, unless the user has moved its start by --allow-change.
      if (read_saved_config(*root->checkpoint).regularizer.gamma != config.regularizer.gamma) {
        progress.gamma = config.regularizer.gamma;
      }
      model = read_model_config(root->checkpoint->path("config.json"));
    } else {
      model = starting_model_config(config);
    }
    const bool own = root->checkpoint && is_own(*root);
    const bool newest = own && root->store.steps().back() == progress.step;
    text = Json{{"progress", to_json(progress)},
                {"model", export_config(model, ExportLayout::kBase, model.dtype, {})},
                {"tokenizer", starting_tokenizer_hash(config)},
                {"own", own},
                {"newest", newest},
                {"validated", config.validates_after(progress.step)
                                  ? validated_sets(root->folder.metrics(), progress.step)
                                  : std::vector<std::string>()},
                {"exported", newest && progress.step >= config.total_steps() &&
                                 folder_exists(root->folder.hybrid())}}
               .dump();
  });
  const std::string source = "rank 0's start";
  const Json json = parse_json(communicator.broadcast_text(text, 0), source, ExitCode::kInternal);
  const JsonCursor cursor(json, source, ExitCode::kInternal);
  std::vector<std::string> validated;
  for (size_t i = 0; i < cursor["validated"].size(); ++i) {
    validated.push_back(cursor["validated"].at(i).string());
  }
  return {progress_from_json(cursor["progress"]),
          parse_model_config(cursor["model"].value(), source),
          cursor["tokenizer"].string(),
          cursor["own"].boolean(),
          cursor["newest"].boolean(),
          std::move(validated),
          cursor["exported"].boolean()};
}

// The model on this rank's device, its weights still zero.
struct TrainedModel {
  FlatParameters parameters;
  CausalLm model;  // borrows them

  TrainedModel(const RunConfig& config, const ModelConfig& model_config, c10::Device device,
               const AttentionNotice& notice)
      : TrainedModel(config, model_config, device, notice,
                     parameter_table(model_config, has_router(config))) {}
  TrainedModel(const TrainedModel&) = delete;
  TrainedModel& operator=(const TrainedModel&) = delete;

 private:
  TrainedModel(const RunConfig& config, const ModelConfig& model_config, c10::Device device,
               const AttentionNotice& notice, const std::vector<ParameterUnit>& units)
      : parameters(units, frozen_tensors(units, config.train.freeze), compute_type(config), device,
                   FlatParameters::Purpose::kTraining, moment_type(config)),
        model(model_config, model_options(config, model_config), parameters, operations_for(device),
              attention_backend(config, device, notice)) {}
};

// Every rank's copy of what rank 0 read.
void broadcast_parameters(FlatParameters& parameters, Communicator& communicator) {
  if (communicator.size() == 1) return;
  for (FlatUnit& unit : parameters.units()) {
    communicator.broadcast(unit.master, 0);
    if (unit.trainable_numel == 0) continue;
    communicator.broadcast(unit.moment1, 0);
    communicator.broadcast(unit.moment2, 0);
  }
}

void load_parameters(const RunConfig& config, const ModelConfig& model, const RootFiles& root,
                     FlatParameters& parameters, Log& log) {
  const InitialWeights initial{static_cast<uint64_t>(config.run.seed), config.router.init_std};
  if (root.checkpoint) {
    load_training_checkpoint(*root.checkpoint, parameters);
    log.info("Resuming after step {} from {}.", root.checkpoint->step(), root.checkpoint->folder());
  } else if (config.model.init_from) {
    if (file_exists(*config.model.init_from + "/MANIFEST.json")) {
      const SavedCheckpoint verified(*config.model.init_from, CheckpointTest::kHashes);
    }
    const ImportReport report =
        load_weights(HfFolder(*config.model.init_from), parameters, initial);
    log.info("Loaded {} tensors with {:.1f} M parameters from {}; {} routers are new.",
             report.tensors, static_cast<double>(report.parameters) * 1e-6, *config.model.init_from,
             report.initialised.size());
  } else {
    initialise_weights(parameters, model, initial);
    log.info("All weights are random (model.init_from is null).");
  }
}

// The model with its weights and moments, on every rank.
void load_model(std::optional<TrainedModel>& trained, const Start& start, const Surroundings& s) {
  if (s.device.is_cuda()) {
    choose_algorithms(is_deterministic(s.config, start.model, s.device, is_hopper(s.device)));
  }
  agree(s.communicator, [&] {
    trained.emplace(s.config, start.model, s.device, [&](const std::string& sentence) {
      if (s.root) s.log.warning("{}", sentence);
    });
  });
  agree_on_root(s.communicator, [&] {
    load_parameters(s.config, start.model, *s.root, trained->parameters, s.log);
  });
  broadcast_parameters(trained->parameters, s.communicator);
  trained->parameters.refresh_compute_copies();
  s.log.info("{}.", describe_computing(s.config, start.model, s.device, s.communicator.size(),
                                       trained->model.backend()));
}

// What a model card says of the run; figures are those of the last step.
std::vector<CardLine> card_lines(const TrainingProgress& progress, const RunConfig& config,
                                 const RunResult& result) {
  std::vector<CardLine> lines = {{"Base", config.model.init_from.value_or("random weights")},
                                 {"Steps", std::to_string(progress.step)},
                                 {"Tokens", std::to_string(progress.tokens)}};
  const bool routed = config.attention.mode == AttentionSection::Mode::kSwitch;
  if (routed && result.full_ratio) {
    lines.push_back({"Tokens with full attention, in training",
                     fmt::format("{:.1f} %", 100 * *result.full_ratio)});
  }
  if (routed && !result.full_ratio_by_layer.empty()) {
    lines.push_back({"The same by layer, from the first",
                     fmt::format("{:.3f}", fmt::join(result.full_ratio_by_layer, ", "))});
  }
  for (const ValidationMetrics& set : result.validation) {
    if (!std::isfinite(set.nll)) continue;
    lines.push_back({fmt::format("Validation on {}", set.name),
                     fmt::format("{:.4f} nats a token (perplexity {:.3f}), {:.1f} % with full "
                                 "attention",
                                 set.nll, set.perplexity, 100 * set.full_ratio)});
  }
  return lines;
}

// The export where it is missing, and the report.
void complete(RootFiles& root, const RunConfig& config, const ModelConfig& model,
              const FlatParameters& parameters, const TrainingProgress& progress, bool finished,
              Log& log) {
  FileSystem& files = FileSystem::posix();
  if (finished && config.checkpoint.export_at_end && !folder_exists(root.folder.hybrid())) {
    ExportOptions options;
    options.dtype = model.dtype;
    options.attention = hybrid_attention(config);
    options.companions_from = companions_of(config.model.init_from.value_or(""));
    options.card = card_lines(progress, config, read_run_result(root.folder.metrics()));
    export_hybrid(files, parameters, model, options, root.folder.hybrid());
    log.info("Exported the model to {}.", root.folder.hybrid());
  }
  try {
    write_report(files, root.folder.path(),
                 {std::filesystem::path(root.folder.path()).filename().string(),
                  {{"Base model", config.model.init_from.value_or("random weights")}}});
    log.info("Report: {}.", root.folder.report());
  } catch (const std::exception& error) {  // a picture is no reason to fail
    log.warning("The report could not be written. {}", error.what());
  }
}

// Runs the trainer. What goes wrong on this rank alone is told with its step, and reaches the run's
// log from other ranks too where they see the folder.
RunOutcome run_trainer(Trainer& trainer, RunObserver& observer, const Surroundings& s) {
  try {
    return trainer.run();
  } catch (const AgreedError& error) {
    observer.fail(error.what());
    throw;
  } catch (const std::exception& exception) {
    const Error error = as_error(exception);
    const std::string sentence =
        fmt::format("Step {}: {}", trainer.progress().step + 1, error.what());
    observer.fail(sentence);
    const std::string log_path = s.config.run.folder + "/run.log";
    if (!s.root && file_exists(log_path)) s.log.attach_file(log_path);
    throw Error(error.code(), sentence);
  }
}

End train(const Start& start, TrainedModel& trained, const Surroundings& s) {
  const int rank = s.communicator.rank(), ranks = s.communicator.size();
  if (s.root) {
    for (const std::string& warning : start_warnings(s.config, start.model, s.device)) {
      s.log.warning("{}", warning);
    }
  }
  const ModelTokens tokens{start.model.vocab_size, start.tokenizer_hash};
  std::optional<BatchStream> stream;
  std::vector<NamedStream> validation;
  agree(s.communicator, [&] {
    stream.emplace(training_stream(s.config, tokens, rank, ranks));
    validation = validation_streams(s.config, tokens, rank, ranks);
  });
  agree_on_data(s.communicator, s.config, *stream, validation);
  std::unique_ptr<RunObserver> observer = std::make_unique<RunObserver>();
  agree_on_root(s.communicator, [&] {
    set_outdated_aside(*s.root, start, s.log);
    observer = std::make_unique<RunRecorder>(FileSystem::posix(), s.root->folder, s.config,
                                             start.progress.step, s.log,
                                             s.arguments.json ? &std::cout : nullptr);
  });
  std::unique_ptr<Profiler> profiler;
  if (s.root && s.config.log.profile) {
    profiler = std::make_unique<Profiler>(FileSystem::posix(), s.root->folder.profile(),
                                          *s.config.log.profile, s.device, s.facts.name, *observer);
  }
  std::optional<CapturedTraining> captured;
  if (replays_training(s.config, start.model, s.device)) {
    captured.emplace(trained.model, trained.parameters, [&](const std::string& sentence) {
      // Of this rank alone. The observers of other ranks are silent, their consoles name them.
      if (s.root) return observer->warn(sentence);
      s.log.warning("{}", sentence);
    });
  }
  Trainer trainer(
      {s.config, s.communicator, trained.model, trained.parameters, *observer, s.watchdog,
       s.root ? &s.root->store : nullptr, profiler.get(), s.facts.bf16_peak_flops,
       captured ? &*captured : nullptr, /*lag=*/s.device.is_cuda() ? size_t{1} : size_t{0}},
      {start.progress, start.own, start.validated}, std::move(*stream), std::move(validation));
  const RunOutcome outcome = run_trainer(trainer, *observer, s);
  observer->enter(trainer.progress().step,
                  outcome == RunOutcome::kFinished ? "finished" : "stopped");
  return {outcome, trainer.progress(), trainer.saved()};
}

// The last export, report and sentence.
ExitCode finish(const End& end, const Start& start, const FlatParameters& parameters,
                const Surroundings& s) {
  s.watchdog.set_timeout(s.config.parallel.timeout_first);  // the others wait for rank 0's disk
  const bool finished = end.outcome == RunOutcome::kFinished;
  const std::string unsaved = fmt::format(
      "The run has ended, but its last checkpoint could not be saved in {}, as a warning before "
      "this says: mend that, and start the same command again.",
      s.config.run.folder);
  agree_on_root(s.communicator, [&] {
    try {
      complete(*s.root, s.config, start.model, parameters, end.progress, finished, s.log);
    } catch (const Error& error) {
      if (end.saved) throw;
      fail(error.code(), "{} {}", error.what(), unsaved);
    }
  });
  if (!end.saved) throw AgreedError(ExitCode::kCheckpoint, unsaved);
  if (finished) return ExitCode::kDone;
  s.log.info("Stopped by a signal after step {}; start the same command again{} to go on.",
             end.progress.step, s.arguments.resume == "auto" ? "" : ", without --resume,");
  return ExitCode::kPreempted;
}

}  // namespace

ExitCode run_session(const TrainArguments& arguments, const MpiSession& mpi, ConsoleLog& log) {
  const c10::InferenceMode no_autograd;
  RunConfig config;
  Watchdog watchdog(config.parallel.timeout_first, [&](const std::string& sentence) {
    log.error("Rank {} {}.", mpi.rank(), sentence);
    mpi.abort(ExitCode::kCommunication);
  });
  auto host = mpi.make_host_communicator();
  c10::Device device = c10::kCPU;
  {
    const Watchdog::Watch watch(watchdog, "the other ranks to read the configuration");
    agree(*host, [&] {
      config = read_run_config(arguments.config_path, arguments.overrides);
      device = choose_device(arguments.device, mpi.local_rank());
      attention_backend(config, device);  // what it refuses leaves the run's folder untouched
    });
    agree_on_setting(*host, config, device);
  }
  watchdog.set_timeout(config.parallel.timeout_first);
  install_stop_signals(config.preempt.signals);
  const DeviceFacts facts = device_facts(device);
  const auto communicator = watch(make_communicator(std::move(host), device, watchdog), watchdog);
  std::optional<RootFiles> root;
  const Surroundings s{config, *communicator, watchdog, device, facts, root, log, arguments};

  std::vector<ConfigChange> changes = open_run(arguments, s);
  const Start start = agree_on_start(config, root, *communicator);
  const bool finished = start.newest && start.is_trained(config) && start.is_validated(config);
  if (finished) {
    log.info("The run in {} is finished: {} of {} steps.", config.run.folder, start.progress.step,
             config.total_steps());
    if (start.exported || !config.checkpoint.export_at_end) return ExitCode::kDone;
    changes.clear();  // nothing is left to be computed otherwise
  }
  for (const ConfigChange& change : changes) {
    log.info("{} changes from {} to {}.", change.key, change.before, change.after);
  }
  std::optional<TrainedModel> model;
  load_model(model, start, s);
  End end{RunOutcome::kFinished, start.progress};
  if (!finished) end = train(start, *model, s);
  return finish(end, start, model->parameters, s);
}

}  // namespace swiattn
