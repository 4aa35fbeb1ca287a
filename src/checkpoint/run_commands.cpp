#include "checkpoint/run_commands.h"

#include <fmt/ostream.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/folder_lock.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/checkpoint_names.h"
#include "checkpoint/checkpoint_store.h"

namespace swiattn {
namespace {

using OrderedJson = nlohmann::ordered_json;

struct Arguments {
  std::string run;
  int64_t keep = 3;
  bool as_json = false;
};

std::string checkpoints_of(const std::string& run) {
  std::string folder = run + "/checkpoints";
  if (!folder_exists(folder)) {
    fail(ExitCode::kCheckpoint,
         "'{}' has no folder 'checkpoints': it is not the folder of a run, or nothing was saved "
         "yet.",
         run);
  }
  return folder;
}

OrderedJson describe(const SavedCheckpoint& checkpoint) {
  const Manifest& manifest = checkpoint.manifest();
  return {{"folder", checkpoint.folder()},    {"step", manifest.fields.step},
          {"tokens", manifest.fields.tokens}, {"world", manifest.fields.world},
          {"bytes", manifest.total_bytes()},  {"files", manifest.files.size()}};
}

// One checkpoint in a list: what it is, or why it is not usable.
struct Listed {
  std::string folder;
  std::optional<SavedCheckpoint> checkpoint;
  std::string problem;
};

Listed look_at(const std::string& folder) {
  try {
    return {folder, SavedCheckpoint(folder, CheckpointTest::kSizes), ""};
  } catch (const Error& error) {
    return {folder, std::nullopt, error.what()};
  }
}

void print_table(const std::vector<Listed>& all, std::ostream& out) {
  fmt::print(out, "{:<16} {:>16} {:>6} {:>12} {:>6}\n", "checkpoint", "tokens", "ranks", "size",
             "files");
  for (const Listed& listed : all) {
    const std::string name = std::filesystem::path(listed.folder).filename();
    if (!listed.checkpoint) {
      fmt::print(out, "{:<16} damaged: {}\n", name, listed.problem);
      continue;
    }
    const Manifest& manifest = listed.checkpoint->manifest();
    fmt::print(out, "{:<16} {:>16} {:>6} {:>12} {:>6}\n", name, manifest.fields.tokens,
               manifest.fields.world, readable_bytes(manifest.total_bytes()),
               manifest.files.size());
  }
}

void print_json(const std::vector<Listed>& all, std::ostream& out) {
  OrderedJson list = OrderedJson::array();
  for (const Listed& listed : all) {
    OrderedJson item = listed.checkpoint
                           ? describe(*listed.checkpoint)
                           : OrderedJson{{"folder", listed.folder}, {"problem", listed.problem}};
    list.push_back(std::move(item));
  }
  out << dump_json(list, 2) << '\n';
}

// Folders that no resume looks at: evidence, what was abandoned, unfinished saves.
void print_others(const std::string& folder, std::ostream& out) {
  for (const std::string& name : list_folder(folder, ExitCode::kCheckpoint)) {
    if (name.starts_with("step-") && !step_of_folder_name(name)) {
      fmt::print(out, "{} (not used)\n", name);
    }
  }
}

void list(const Arguments& arguments, FileSystem& files, Log& log, std::ostream& out) {
  const std::string folder = checkpoints_of(arguments.run);
  const CheckpointStore store(files, folder, log);
  std::vector<Listed> all;
  for (const int64_t step : store.steps()) all.push_back(look_at(store.path(step)));
  if (arguments.as_json) return print_json(all, out);
  print_table(all, out);
  print_others(folder, out);
}

void prune(const Arguments& arguments, FileSystem& files, Log& log, std::ostream& out) {
  const std::string folder = checkpoints_of(arguments.run);
  const FolderLock lock(arguments.run);  // a run that goes on saves and prunes here itself
  CheckpointStore store(files, folder, log);
  // Every byte of what stays is read: the last good checkpoint must not make way for a damaged one.
  const std::vector<int64_t> removed =
      store.prune(arguments.keep, std::nullopt, CheckpointTest::kHashes);
  if (arguments.as_json) {
    out << dump_json(OrderedJson{{"removed", removed}, {"left", store.steps()}}, 2) << '\n';
    return;
  }
  for (const int64_t step : removed) fmt::print(out, "removed {}\n", store.path(step));
  fmt::print(out, "{} removed, {} left.\n", removed.size(), store.steps().size());
}

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::shared_ptr<Arguments>& arguments) {
  CLI::App* command = app.add_subcommand(name, description);
  command->add_option("run", arguments->run, "The folder of a run (run.folder)")
      ->required()
      ->type_name("RUN");
  command->add_flag("--json", arguments->as_json, "Print JSON");
  return command;
}

}  // namespace

void add_run_commands(CLI::App& app, FileSystem& files, Log& log, std::ostream& out) {
  const auto arguments = std::make_shared<Arguments>();
  add_command(app, "list",
              "Show the checkpoints of a run (their sizes are checked, not their bytes)", arguments)
      ->callback([=, &files, &log, &out] { list(*arguments, files, log, out); });
  CLI::App* command = add_command(
      app, "prune", "Remove all but the newest checkpoints of a run that verify", arguments);
  command->add_option("--keep", arguments->keep, "How many stay")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()))
      ->capture_default_str();
  command->callback([=, &files, &log, &out] { prune(*arguments, files, log, out); });
}

bool is_run_checkpoint(const std::string& folder) {
  const std::filesystem::path path = std::filesystem::path(folder + "/").parent_path();
  return file_exists(path_of_manifest(folder)) || step_of_folder_name(path.filename().string());
}

void verify_run_checkpoint(const std::string& folder, bool as_json, std::ostream& out) {
  const SavedCheckpoint checkpoint(folder, CheckpointTest::kHashes);
  if (as_json) {
    out << dump_json(describe(checkpoint), 2) << '\n';
    return;
  }
  const Manifest& manifest = checkpoint.manifest();
  fmt::print(out, "{}: step {}, {} files, {}: every byte verifies.\n", checkpoint.folder(),
             manifest.fields.step, manifest.files.size(), readable_bytes(manifest.total_bytes()));
}

}  // namespace swiattn
