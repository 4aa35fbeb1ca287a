// The training loop: what a run does, step by step.
//
// A GPU is never kept waiting for the host: a step is handed to it whole, and its results are read,
// recorded and decided on while it works on the next one. Everything else keeps the order of the
// steps: what depends on the results of a step (a save, a validation, the end) waits for them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "data/prefetcher.h"
#include "model/captured_training.h"
#include "model/causal_lm.h"
#include "optim/adamw.h"
#include "optim/schedule.h"
#include "parallel/communicator.h"
#include "parallel/device_moment.h"
#include "parallel/watchdog.h"
#include "trainer/data_setup.h"
#include "trainer/profiler.h"
#include "trainer/run_config.h"
#include "trainer/run_observer.h"
#include "trainer/skipped_steps.h"
#include "trainer/step_sums.h"
#include "trainer/training_checkpoint.h"

namespace swiattn {

enum class RunOutcome { kFinished, kStopped };  // stopped: by a signal, after saving

class Trainer {
 public:
  // What the trainer works on; made by run_session.cpp, outliving the trainer.
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
    CapturedTraining* captured;        // of the model, or null: every micro-batch is launched
    // How many steps may be handed to the device before the results of the oldest are read: 1 where
    // the device works by itself. The numbers of a run do not depend on it.
    size_t lag = 0;
  };

  struct StartingPoint {
    TrainingProgress progress;           // 0 steps for a new run
    bool saved = false;                  // whether a checkpoint in `store` holds it
    std::vector<std::string> validated;  // the sets whose results at its step are recorded
  };

  // The parameters hold the weights and moments of the starting point.
  Trainer(const Parts& parts, StartingPoint start, BatchStream stream,
          std::vector<NamedStream> validation);

  // Saves and validates the starting point where that is left; trains until the last step or a
  // signal; saves at both, and in between as the configuration says. Throws Error{kNumerics} when
  // too many steps in a row are skipped, and Error{kCheckpoint} where a stop cannot be saved, or
  // the start of a run that goes on from a checkpoint that is not one of its own.
  RunOutcome run();

  // Of the steps whose results are known: after run() all of them, after an exception those before
  // the one that failed.
  const TrainingProgress& progress() const { return progress_; }
  // Whether a checkpoint holds this progress, on all ranks alike: a full disk can have prevented
  // it.
  bool saved() const { return saved_step_ == progress_.step; }

 private:
  // A step that the device has and whose results have not been read.
  struct StepInFlight {
    int64_t step = 0;
    at::Tensor sums;  // on their way to the host
    DeviceMoment end;
    double data_seconds = 0.0;
    int64_t peak_memory = 0;  // bytes
  };

  RunOutcome run_steps();
  int64_t next_step() const;  // to be handed to the device
  // Hands the next step to the device and tells the results that have come back; returns whether
  // any rank was asked to stop, and then, or where the results are needed, none is outstanding.
  bool step();
  StepInFlight hand_over(int64_t step);
  StepSums forward_and_backward(int64_t step);
  MicroBatchResult train(int64_t step, const MicroBatch& batch);
  void reduce(StepSums& sums);
  void update(int64_t step, StepSums& sums);
  // Waits until no more than `lag` steps are in flight and tells those that are done; returns
  // whether any rank was asked to stop.
  bool settle(size_t lag);
  // Tells the steps before one that this rank could not hand over; they may have to end the run
  // themselves, which is then said beside the failure. All ranks agree on that, but the others are
  // waiting for this one in the step that it cannot take part in: it leaves with an Error of its
  // own, which ends them.
  void settle_alone(const std::exception& failure);
  bool tell(StepInFlight flight);
  void advance(const StepReport& report);
  void skip(const StepReport& report);
  StepMetrics describe(const StepReport& report, const StepInFlight& flight, double seconds) const;
  void wait_for(const StepInFlight& flight);
  // What is done after this step needs its results.
  bool needs_results(int64_t step) const;
  std::unique_ptr<Watchdog::Watch> watch_queue();
  // Writes the profile if this step is its last one, or in the middle of it if the run ends here.
  // Collective.
  void finish_profile(bool run_ends);
  // Saves a starting point that is not one of the run's checkpoints. Throws where that fails.
  void save_as_own();
  // Saves and ends the run where any rank was asked to stop. Throws where that cannot be saved.
  RunOutcome stop_here();
  // On the sets that the step has not been validated on. Breaks off where any rank is asked to stop
  // and returns whether one was; the next start does the rest. Collective.
  bool validate();
  // Whether any rank was asked to stop when this was called: an answer on its way. Collective.
  struct StopQuestion {
    at::Tensor ranks;
    DeviceMoment moment;  // when it is there
  };
  StopQuestion ask_to_stop();
  bool answer(const StopQuestion& question);
  // Where that fails, it warns, saying what happens `otherwise`, and saved() stays false.
  // Collective.
  void save(std::string_view otherwise = "");

  const RunConfig& config_;
  Communicator& communicator_;
  CausalLm& model_;
  FlatParameters& parameters_;
  RunObserver& observer_;
  Watchdog& watchdog_;
  CheckpointStore* store_;
  Profiler* profiler_;
  std::optional<double> peak_flops_;
  CapturedTraining* captured_;
  size_t lag_;
  int64_t first_step_;  // of this start
  int64_t total_steps_;
  Schedule schedule_;
  AdamW optimizer_;
  TrainingProgress progress_;
  SkippedSteps skipped_in_a_row_;  // those of progress_ that this start has seen
  int64_t micro_batches_;          // of this rank in a step
  Prefetcher batches_;
  std::vector<NamedStream> validation_;
  std::vector<std::string> validated_;         // sets, at the step of progress_
  std::deque<StepInFlight> in_flight_;         // the oldest first
  std::optional<DeviceMoment> counting_from_;  // where the time of the oldest begins
  std::optional<int64_t> saved_step_;
};

}  // namespace swiattn
