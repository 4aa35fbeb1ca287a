// Training of models so small that their GPU waits for launches: the forward and backward of a
// micro-batch are recorded once (parallel/device_graphs.h) and replayed for all others of their
// kind. The numbers are those of CausalLm::train(), to the bit where that repeats itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/causal_lm.h"
#include "parallel/device_graphs.h"
#include "parallel/flat_parameters.h"

namespace swiattn {

// Whether pauses between launches are a part of a step's time that is worth a recording: true of
// less than 2^25 numbers in a micro-batch's residual stream.
//
// A layer's forward and backward are some 60 launches. Each costs the GPU a pause of up to 2 us
// (0.1 ms a layer together), and the host 5 us (0.3 ms). An H100 takes about 0.23 ns for each of
// the tokens x hidden_size numbers: at 2^25 of them 8 ms, of which the pauses are 1.5 %; with less
// than 2^20 or so it waits for the host.
bool is_bound_by_launches(int64_t tokens, int64_t hidden_size);

// All that decides which launches a micro-batch takes, and that a recording of them repeats.
struct MicroBatchKind {
  int64_t sequences = 0;
  int64_t sequence_length = 0;
  bool far_keys = false;              // whether any token has some
  std::vector<int32_t> starts;        // of documents; empty where launches follow positions alone
  std::vector<bool> stale_gradients;  // FlatParameters::stale_gradients()

  bool operator==(const MicroBatchKind&) const = default;
};

MicroBatchKind micro_batch_kind(const MicroBatch& batch, bool follows_positions,
                                std::vector<bool> stale_gradients);

// The first micro-batch of a kind is launched as ever, and with it libraries make what they keep;
// at the second it is recorded. Documents of other lengths are another kind, unless
// CausalLm::follows_positions(); kinds that do not repeat, and those beyond the first eight, are
// always launched.
//
// A recording stays to the end. With launches that depend on documents there are as many kinds as
// ways to cut a micro-batch; those that come often come twice within a few steps and are recorded
// first. A kind that comes rarely would not be worth the place of another: recording it costs the
// host more than launching it, and it would have to go again before its replays have paid for that.
// Nor would its going give back memory, which is that of activations and shared by all recordings:
// of its own each has the operands and the result, some hundred bytes a token.
//
// Recordings keep the memory of a micro-batch's activations for themselves, which launched ones and
// evaluations then do not have: there are none where the device does not have it twice.
class CapturedTraining {
 public:
  using Warn = std::function<void(const std::string& sentence)>;

  // Borrows the model and its parameters. Where recording fails, it says so once, and everything is
  // launched from then on.
  CapturedTraining(CausalLm& model, FlatParameters& parameters, Warn warn);

  CapturedTraining(const CapturedTraining&) = delete;  // recordings refer to it
  CapturedTraining& operator=(const CapturedTraining&) = delete;

  // As CausalLm::train(), but the next call may overwrite the result: what reads it has to be
  // queued before. The model is not to change in between, but for its parameters' values.
  MicroBatchResult train(const MicroBatch& batch);

  // Of the GPU, beside what the allocator tells of launched micro-batches.
  int64_t memory_bytes() const { return graphs_ ? graphs_->memory_bytes() : 0; }

  // How many micro-batches were replayed.
  int64_t replays() const { return replays_; }

 private:
  struct Recording {
    MicroBatchKind kind;
    MicroBatch batch;  // the operands, refilled for each replay
    MicroBatchResult result;
    std::vector<bool> stale_gradients;  // afterwards
    size_t number = 0;
  };

  Recording* find(const MicroBatchKind& kind) const;
  // Whether this kind has been met lately; it has been from now on.
  bool meet(const MicroBatchKind& kind);
  // With its first replay, which leaves `batch`'s result; null where that failed.
  Recording* record(const MicroBatchKind& kind, MicroBatch batch);
  void give_up(const std::string& why);

  CausalLm& model_;
  FlatParameters& parameters_;
  Warn warn_;
  std::vector<std::unique_ptr<Recording>> recordings_;
  std::unique_ptr<DeviceGraphs> graphs_;  // null: given up; goes before the operands it reads
  std::deque<MicroBatchKind> met_;        // not recorded, the latest last
  int64_t replays_ = 0;
};

}  // namespace swiattn
