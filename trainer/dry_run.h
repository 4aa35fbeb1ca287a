// What a run would be, without its folder or the model's weights.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/saved_checkpoint.h"
#include "trainer/run_config.h"

namespace swiattn {

struct DryRunFact {
  std::string key;               // of `value`, in JSON
  std::string label, text;       // for people; the text may have several lines
  nlohmann::ordered_json value;  // memory in bytes
};

// Parameters, the memory that they and the layers' activations take on each rank, how the ranks
// compute, tokens a step, samples of the data, schedule and warnings, for `ranks` ranks, and where
// the run would begin: with `checkpoint`, or without one from the beginning. `wanted`: cpu, cuda,
// or empty for a GPU if there is one; without one a program built with CUDA says what a GPU would
// do otherwise, and refuses nothing that a GPU can do. Opens the data and the model's config.json
// and tries run.folder, so that what is wrong with them, or with attention.backend, shows here.
// Throws Error.
std::vector<DryRunFact> dry_run(const RunConfig& config,
                                const std::optional<SavedCheckpoint>& checkpoint,
                                const std::string& wanted, int ranks);

// The resolved configuration and the facts: as YAML with comments, and as {"config", "dry_run"}.
std::string dry_run_text(const RunConfig& config, const std::vector<DryRunFact>& facts);
nlohmann::ordered_json dry_run_json(const RunConfig& config, const std::vector<DryRunFact>& facts);

}  // namespace swiattn
