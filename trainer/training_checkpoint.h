// What a run saves to go on exactly where it was, and how it comes back.
//
//   model.safetensors      the float32 masters by Hugging Face name
//   optimizer.safetensors  both moments of every trained tensor in the type in which they are kept:
//                          exp_avg.NAME, exp_avg_sq.NAME
//   config.json            the model's shape; with model.safetensors a folder that init_from takes
//   training.json          TrainingProgress
//   run.yaml               the resolved configuration
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "checkpoint/checkpoint_store.h"
#include "model/model_config.h"
#include "parallel/flat_parameters.h"
#include "trainer/run_config.h"

namespace swiattn {

// Where a run is: one value, saved and restored as a whole. Learning rate and data position follow
// from `step`; nothing else in a run has a state besides weights and moments.
struct TrainingProgress {
  int64_t step = 0;     // steps done, skipped ones included
  int64_t tokens = 0;   // input tokens seen
  int64_t updates = 0;  // applied by the optimizer: Adam's step count
  int64_t skipped = 0;  // non-finite steps so far
  int64_t skipped_in_a_row = 0;
  double gamma = 0.0;  // of the regularizer, which kind target_ratio moves

  bool operator==(const TrainingProgress&) const = default;
};

Json to_json(const TrainingProgress& progress);
TrainingProgress progress_from_json(const JsonCursor& json);

// Writes and commits the checkpoint of progress.step. Only rank 0 calls it. Throws FileError.
void save_training_checkpoint(CheckpointStore& store, FileSystem& files,
                              const FlatParameters& parameters, const ModelConfig& model,
                              const RunConfig& config, const TrainingProgress& progress, int world);

TrainingProgress read_progress(const SavedCheckpoint& checkpoint);
RunConfig read_saved_config(const SavedCheckpoint& checkpoint);

// Fills masters and moments; compute copies are the caller's. Throws Error{kCheckpoint} naming the
// tensor that is missing or has another shape. Moments of tensors that were frozen then and are
// trained now start at zero; moments of another type than the run's are converted, to the nearest.
void load_training_checkpoint(const SavedCheckpoint& checkpoint, FlatParameters& parameters);

}  // namespace swiattn
