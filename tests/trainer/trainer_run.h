// The training loop in this process, on a small model: what it tells whom, whatever its lag.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "../base/temporary_folder.h"
#include "base/error.h"
#include "trainer/trainer.h"

namespace swiattn {

// What a trainer has told its observer: every number but those that depend on the clock and on
// memory.
struct Transcript {
  std::vector<std::string> lines;     // metrics, validations and warnings, in order
  std::vector<std::string> calls;     // "enter 3", "record 3", "validation 4", "save 5"
  std::vector<StepMetrics> steps;     // with the clock
  std::vector<std::string> told;      // sentences
  std::optional<RunOutcome> outcome;  // nothing after an error
  std::string error;
  ExitCode code = ExitCode::kDone;  // of the error
  bool agreed = false;              // whether the error is one that all ranks have
  TrainingProgress progress;
  int64_t replays = 0;  // of micro-batches, where `captured`
};

// The other rank's part of the conversation: what it adds to the sums of a step, and what it says
// when a validation asks whether to stop.
struct OtherRank {
  std::vector<int64_t> spoils = {};  // steps whose gradients get a NaN
  int64_t stops = 0;                 // the step at which it asks to stop; 0: never
  int64_t stops_in_validation = 0;   // the step in whose validation it does …
  int64_t at_question = 1;           // … from this question on whether any rank has to
};

// A model folder, a shard and the configuration of a run of them, in a folder of its own.
class TrainerRun {
 public:
  // `text` is YAML besides run, model and data.
  TrainerRun(const ModelConfig& model, const std::string& text, int64_t sequence_length,
             const std::vector<int32_t>& tokens);

  struct Options {
    size_t lag = 0;
    c10::Device device = c10::kCPU;
    std::vector<std::string> overrides;
    std::optional<OtherRank> other;      // nothing: one rank
    bool profile = false;                // as log.profile says
    bool captured = false;               // trains by CapturedTraining
    std::vector<std::string> validated;  // sets, at the step that the run goes on from
    // Called when the trainer enters the first phase of a step.
    std::function<void(int64_t step)> on_step;
  };

  // Of a run in root()/NAME.
  RunConfig config(const std::string& name, std::vector<std::string> overrides) const;

  // Trains in root()/NAME, from the newest checkpoint there.
  Transcript train(const std::string& name, const Options& options) const;

  const std::string& root() const { return folder_.path(); }
  // The bytes of weights, moments and progress in the newest checkpoint.
  std::string checkpoint(const std::string& name) const;

 private:
  TemporaryFolder folder_;
};

}  // namespace swiattn
