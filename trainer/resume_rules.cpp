#include "trainer/resume_rules.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "base/error.h"
#include "base/file_system.h"
#include "checkpoint/checkpoint_names.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/manifest.h"
#include "model/parameter_table.h"
#include "trainer/run_folder.h"
#include "trainer/training_checkpoint.h"

namespace swiattn {
namespace {

std::string checkpoints_of(const std::string& run_folder) { return run_folder + "/checkpoints"; }

// --allow-change does not reach these.
bool is_part_of_model(const ConfigChange& change) {
  return change.key == "model.rope_scaling" || change.key == "model.architecture";
}

// "model.embed_tokens.weight [61, 48]" of every tensor.
std::vector<std::string> tensors_of(const ModelConfig& model) {
  std::vector<std::string> tensors;
  for (const ParameterUnit& unit : parameter_table(model, false)) {
    for (const ParameterGroup& group : unit.groups) {
      for (const ParameterSpec& spec : group.members) {
        tensors.push_back(fmt::format("{} [{}]", spec.name, fmt::join(spec.shape, ", ")));
      }
    }
  }
  return tensors;
}

// The model is the checkpoint's: who has changed the file since would train another one than they
// think. Without the file the run goes on as well.
void refuse_another_model(const SavedCheckpoint& checkpoint, const RunConfig& config) {
  const auto& file = config.model.architecture;
  if (!file || !file_exists(*file)) return;
  const std::vector<std::string> now = tensors_of(read_model_config(*file));
  const std::vector<std::string> saved =
      tensors_of(read_model_config(checkpoint.path("config.json")));
  const auto [other, here] = std::mismatch(now.begin(), now.end(), saved.begin(), saved.end());
  if (other == now.end() && here == saved.end()) return;
  const std::string none = "nothing";
  fail(
      ExitCode::kConfiguration,
      "model.architecture: {} describes another model now: it has {} where {} has {}. Set it back, "
      "or start a new run of that model in another run.folder.",
      *file, other == now.end() ? none : *other, checkpoint.folder(),
      here == saved.end() ? none : *here);
}

// Which one CheckpointStore::newest_valid() would give, by the sizes of files alone. Throws as it.
std::optional<SavedCheckpoint> newest_checkpoint(const std::string& folder) {
  std::vector<int64_t> steps = saved_steps(folder);
  std::reverse(steps.begin(), steps.end());
  for (const int64_t step : steps) {
    try {
      return SavedCheckpoint(folder + "/" + checkpoint_folder_name(step), CheckpointTest::kSizes);
    } catch (const Error& error) {
      if (!is_damage(error)) throw;  // else a start sets it aside and says so
    }
  }
  refuse_if_checkpoints_are_lost(folder);
  return std::nullopt;
}

SavedCheckpoint open_named(const std::string& path, const std::string& checkpoints,
                           CheckpointTest test) {
  try {
    return SavedCheckpoint(path, test);
  } catch (const FileError& error) {
    if (error.system_error() != ENOENT && error.system_error() != ENOTDIR) throw;
    fail(ExitCode::kCheckpoint,
         "--resume names {}, which is {}. Give auto, never, or the folder of a checkpoint, such as "
         "{}.",
         path,
         folder_exists(path) ? fmt::format("no checkpoint: it has no {}", kManifestName)
                             : "no folder",
         checkpoints + "/" + checkpoint_folder_name(500));
  }
}

std::optional<SavedCheckpoint> look_for_checkpoint(const std::string& run_folder,
                                                   const std::string& resume) {
  if (resume == "auto") return newest_checkpoint(checkpoints_of(run_folder));
  if (resume != "never") return named_checkpoint(resume, run_folder, CheckpointTest::kSizes);
  refuse_run_in(run_folder);
  return std::nullopt;
}

}  // namespace

void refuse_run_in(const std::string& run_folder) {
  if (!holds_a_run(run_folder)) return;
  fail(ExitCode::kConfiguration,
       "{} holds a run already and --resume never was given; choose another run.folder, or leave "
       "--resume out to go on with it.",
       run_folder);
}

SavedCheckpoint named_checkpoint(const std::string& path, const std::string& run_folder,
                                 CheckpointTest test) {
  SavedCheckpoint checkpoint = open_named(path, checkpoints_of(run_folder), test);
  const std::filesystem::path folder = std::filesystem::weakly_canonical(path).parent_path();
  if (holds_a_run(run_folder) &&
      folder != std::filesystem::weakly_canonical(checkpoints_of(run_folder))) {
    fail(
        ExitCode::kConfiguration,
        "{} holds a run already, and {} is not one of its checkpoints; leave --resume out to go on "
        "with that run, or choose another run.folder for one that goes on from there.",
        run_folder, path);
  }
  return checkpoint;
}

std::vector<ConfigChange> compare_configs(const SavedCheckpoint& checkpoint,
                                          const RunConfig& config,
                                          const std::vector<std::string>& allowed) {
  std::vector<ConfigChange> changes = config_changes(read_saved_config(checkpoint), config);
  std::vector<std::string> refused, in_model, flags;
  for (const ConfigChange& change : changes) {
    const bool is_allowed = std::find(allowed.begin(), allowed.end(), change.key) != allowed.end();
    if (!is_part_of_model(change) && (is_allowed || !change.alters_training)) continue;
    refused.push_back(
        fmt::format("{} was {} and is {} now", change.key, change.before, change.after));
    if (is_part_of_model(change)) {
      in_model.push_back(change.key);
    } else {
      flags.push_back("--allow-change " + change.key);
    }
  }
  if (refused.empty()) {
    refuse_another_model(checkpoint, config);
    return changes;
  }
  std::string text = fmt::format(
      "{} was saved under another configuration, and the remaining steps would compute something "
      "else: {}. Set that back, or start a new run with model.init_from",
      checkpoint.folder(), fmt::join(refused, "; "));
  if (!flags.empty()) text += fmt::format("; {} accepts a change", fmt::join(flags, " "));
  text += ".";
  for (const std::string& key : in_model) {
    text += fmt::format(" {} is part of the model, and --allow-change does not reach it.", key);
  }
  throw Error(ExitCode::kConfiguration, text);
}

std::optional<SavedCheckpoint> starting_checkpoint(const RunConfig& config,
                                                   const std::string& resume,
                                                   const std::vector<std::string>& allowed) {
  auto checkpoint = look_for_checkpoint(config.run.folder, resume);
  if (checkpoint) compare_configs(*checkpoint, config, allowed);
  return checkpoint;
}

}  // namespace swiattn
