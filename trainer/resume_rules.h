// From which checkpoint a run may go on, and under which configuration.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoint/saved_checkpoint.h"
#include "trainer/run_config.h"

namespace swiattn {

// What --resume never asks for. Throws Error{kConfiguration} where the folder holds a run.
void refuse_run_in(const std::string& run_folder);

// The checkpoint that --resume PATH names. Throws Error{kCheckpoint} where it is none, and
// Error{kConfiguration} where it is another run's than the one that `run_folder` holds.
SavedCheckpoint named_checkpoint(const std::string& path, const std::string& run_folder,
                                 CheckpointTest test);

// What differs from the configuration that the checkpoint was saved under. Throws
// Error{kConfiguration} where that would change what the remaining steps compute, naming every key
// that does, but for those that --allow-change has named; and where the file that
// model.architecture names describes a model of other tensors by now.
std::vector<ConfigChange> compare_configs(const SavedCheckpoint& checkpoint,
                                          const RunConfig& config,
                                          const std::vector<std::string>& allowed);

// For the dry run: the checkpoint that a start with this --resume would go on from, or none. Looks
// into the run's folder without taking it or changing anything in it, and at the sizes of a
// checkpoint's files only. Throws what refuses such a start.
std::optional<SavedCheckpoint> starting_checkpoint(const RunConfig& config,
                                                   const std::string& resume,
                                                   const std::vector<std::string>& allowed);

}  // namespace swiattn
