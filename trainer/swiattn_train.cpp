// swiattn-train: continual pretraining of a full-attention model into a Switch Attention hybrid.
#include <CLI/CLI.hpp>

#include <iostream>

#include "base/program.h"
#include "parallel/agreement.h"
#include "parallel/torch_errors.h"
#include "trainer/dry_run.h"
#include "trainer/resume_rules.h"
#include "trainer/run_config.h"
#include "trainer/run_session.h"

namespace swiattn {
namespace {

struct Options {
  TrainArguments train;
  bool dry_run = false;
  int ranks = 1;  // of the dry run
  bool print_config = false;
  bool print_reference = false;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--config", options.train.config_path, "The YAML file of the run");
  app.add_option("--resume", options.train.resume,
                 "auto: go on with what is in the run folder, or start (default); never: refuse a "
                 "folder with a run in it; or the folder of a checkpoint")
      ->type_name("auto|never|PATH");
  app.add_option("--allow-change", options.train.allowed_changes,
                 "Accept that this key differs from the checkpoint's, although it changes the "
                 "remaining steps; may be repeated")
      ->type_name("section.key");
  app.add_option("--device", options.train.device,
                 "Where to compute; default: a GPU if there is one")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  CLI::Option* dry_run = app.add_flag(
      "--dry-run", options.dry_run,
      "Check model, data, configuration and the run folder, print what the run would be and where "
      "it would begin, and stop; on a machine without a GPU, say what would be different on one");
  app.add_option("--ranks", options.ranks, "With --dry-run: how many ranks the run will have")
      ->check(CLI::Range(1, 1'000'000))
      ->needs(dry_run);
  app.add_flag("--print-config", options.print_config, "Print the resolved configuration and stop");
  app.add_flag("--json", options.train.json,
               "JSON on standard output: of a run, what metrics.jsonl gets, a line each; with "
               "--dry-run or --print-config, one object");
  app.add_flag("--print-reference", options.print_reference,
               "Print the reference of all keys in Markdown and stop");
  app.allow_extras();
  app.footer(
      "Any key of the YAML file can be given as --section.key=value, which wins over the file.\n"
      "Several ranks: mpirun -np N swiattn-train --config FILE, one process a GPU.\n"
      "Exit codes: 0 done, 2 configuration, 3 data, 4 checkpoint, 5 communication, 6 numerics,\n"
      "75 stopped by a signal after saving.");
}

std::vector<DryRunFact> facts_of(const RunConfig& config, const Options& options) {
  return with_torch_errors([&] {
    const TrainArguments& train = options.train;
    const auto checkpoint = starting_checkpoint(config, train.resume, train.allowed_changes);
    return dry_run(config, checkpoint, train.device, options.ranks);
  });
}

// What --print-config and --dry-run print.
std::string describe(const RunConfig& config, const Options& options) {
  const bool as_json = options.train.json;
  if (!options.dry_run) {
    return as_json ? dump_json(run_config_json(config), 2) + "\n" : print_run_config(config);
  }
  const std::vector<DryRunFact> facts = facts_of(config, options);
  return as_json ? dump_json(dry_run_json(config, facts), 2) + "\n" : dry_run_text(config, facts);
}

int run(int argc, char** argv) {
  CLI::App app("Trains a full-attention language model into a Switch Attention hybrid.",
               "swiattn-train");
  Options options;
  add_options(app, options);
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  if (options.print_reference) {
    std::cout << config_reference_markdown();
    return 0;
  }
  for (const std::string& key : options.train.allowed_changes) {
    if (is_config_key(key)) continue;
    fail(ExitCode::kConfiguration,
         "--allow-change {}: there is no such key; docs/config-reference.md lists them all.", key);
  }
  options.train.overrides = app.remaining();  // whatever CLI11 does not know
  options.train.command_line.assign(argv, argv + argc);
  if (options.train.config_path.empty()) {
    fail(ExitCode::kConfiguration,
         "--config FILE is missing; --help shows how to use the program.");
  }
  if (options.print_config || options.dry_run) {
    const RunConfig config = read_run_config(options.train.config_path, options.train.overrides);
    std::cout << describe(config, options);
    return 0;
  }
  MpiSession mpi;
  const auto log = make_console_log(mpi.rank());
  bool together = true;
  const int code = run_program(*log, [&]() -> int {
    try {
      return static_cast<int>(
          with_torch_errors([&] { return run_session(options.train, mpi, *log); }));
    } catch (const AgreedError& error) {
      if (mpi.rank() == 0) throw;  // and says it for all
      return static_cast<int>(error.code());
    } catch (...) {
      together = false;  // the others may wait for this rank
      throw;
    }
  });
  if (!together) mpi.abort(static_cast<ExitCode>(code));
  mpi.finish();
  return code;
}

}  // namespace
}  // namespace swiattn

int main(int argc, char** argv) {
  return swiattn::run_program("swiattn-train", [&] { return swiattn::run(argc, argv); });
}
