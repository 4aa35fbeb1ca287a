// The training loop: what a run does, step by step.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "data/prefetcher.h"
#include "model/causal_lm.h"
#include "optim/adamw.h"
#include "optim/schedule.h"
#include "parallel/communicator.h"
#include "parallel/watchdog.h"
#include "trainer/data_setup.h"
#include "trainer/profiler.h"
#include "trainer/run_config.h"
#include "trainer/run_observer.h"
#include "trainer/step_sums.h"
#include "trainer/training_checkpoint.h"

namespace swiattn {

enum class RunOutcome { kFinished, kStopped };  // stopped: by a signal, after saving

class Trainer {
 public:
  // What the trainer works on; made by main (swiattn_train.cpp), outliving the trainer.
  struct Parts {
    const RunConfig& config;
    Communicator& communicator;
    CausalLm& model;
    FlatParameters& parameters;
    RunObserver& observer;
    Watchdog& watchdog;
    CheckpointStore* store;            // on rank 0, null elsewhere
    Profiler* profiler;                // on rank 0 with log.profile, null elsewhere
    std::optional<double> peak_flops;  // of one device
  };

  // Begins after `progress`: 0 steps for a new run. The parameters hold the weights and moments.
  Trainer(const Parts& parts, const TrainingProgress& progress, BatchStream stream,
          std::vector<NamedStream> validation);

  // Trains until the last step or a signal; saves at both, and in between as the configuration
  // says. Throws Error{kNumerics} when too many steps in a row are not finite.
  RunOutcome run();

  const TrainingProgress& progress() const { return progress_; }
  // Whether a checkpoint holds this progress: a full disk can have prevented it.
  bool saved() const { return saved_step_ == progress_.step; }

 private:
  // What a step came to, read back from the device.
  struct Outcome {
    StepReport report;
    double grad_norm = 0.0;  // after 1/T, before clipping
    bool applied = false;    // false: something was not finite, and the weights are as before
  };

  // One step; returns whether any rank was asked to stop.
  bool step();
  StepSums forward_and_backward(int64_t step);
  void reduce(StepSums& sums);
  Outcome update(int64_t step, const StepSums& sums);
  void advance(const StepReport& report, bool applied);
  StepMetrics describe(const StepReport& report, double seconds, double data_seconds) const;
  // Writes the profile if this step is its last one, or if no step is to come.
  void finish_profile(bool last_step);
  void validate();
  // Whether the checkpoint of this step is on disk, on all ranks alike.
  bool save();

  const RunConfig& config_;
  Communicator& communicator_;
  CausalLm& model_;
  FlatParameters& parameters_;
  RunObserver& observer_;
  Watchdog& watchdog_;
  CheckpointStore* store_;
  Profiler* profiler_;
  std::optional<double> peak_flops_;
  int64_t total_steps_;
  Schedule schedule_;
  AdamW optimizer_;
  TrainingProgress progress_;
  int64_t micro_batches_;  // of this rank in a step
  Prefetcher batches_;
  std::vector<NamedStream> validation_;
  std::optional<int64_t> saved_step_;
};

}  // namespace swiattn
