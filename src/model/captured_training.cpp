#include "model/captured_training.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "parallel/device.h"
#include "parallel/torch_errors.h"

namespace swiattn {
namespace {

constexpr int64_t kLaunchBound = int64_t{1} << 25;
constexpr size_t kRecordings = 8;
constexpr size_t kRemembered = 16;

// What differs between micro-batches of a kind, on their device.
std::array<at::Tensor*, 7> operands(MicroBatch& batch) {
  return {&batch.ids,        &batch.targets,         &batch.counted,
          &batch.samples,    &batch.layout.position, &batch.rotary.cosine,
          &batch.rotary.sine};
}

// Of a layout what launches that follow positions may read: should one read another tensor, its
// recording fails.
DocumentLayout positions_of(const DocumentLayout& layout) {
  DocumentLayout positions;
  positions.tokens = layout.tokens;
  positions.window = layout.window;
  positions.far_longest = layout.far_longest;
  positions.position = layout.position;
  return positions;
}

void refill(MicroBatch& to, MicroBatch from) {
  const auto into = operands(to), values = operands(from);
  for (size_t i = 0; i < into.size(); ++i) into[i]->copy_(*values[i]);
}

MicroBatch copy_of(const MicroBatch& batch, bool follows_positions) {
  MicroBatch copy = batch;
  if (follows_positions) {
    copy.layout = positions_of(batch.layout);
  } else {
    copy.layout.far_rows();  // made from host memory, which a recording does not read
  }
  for (at::Tensor* operand : operands(copy)) *operand = operand->clone();
  return copy;
}

}  // namespace

bool is_bound_by_launches(int64_t tokens, int64_t hidden_size) {
  return tokens * hidden_size < kLaunchBound;
}

MicroBatchKind micro_batch_kind(const MicroBatch& batch, bool follows_positions,
                                std::vector<bool> stale_gradients) {
  MicroBatchKind kind{batch.sequences, batch.sequence_length, batch.layout.far_longest > 0};
  if (!follows_positions) kind.starts = batch.layout.starts;
  kind.stale_gradients = std::move(stale_gradients);
  return kind;
}

CapturedTraining::CapturedTraining(CausalLm& model, FlatParameters& parameters, Warn warn)
    : model_(model),
      parameters_(parameters),
      warn_(std::move(warn)),
      graphs_(std::make_unique<DeviceGraphs>(parameters.device())) {}

MicroBatchResult CapturedTraining::train(const MicroBatch& batch) {
  if (!graphs_) return model_.train(batch);
  const bool follows_positions = model_.follows_positions();
  const MicroBatchKind kind =
      micro_batch_kind(batch, follows_positions, parameters_.stale_gradients());
  Recording* recording = find(kind);
  if (recording != nullptr) {
    refill(recording->batch, batch);
    graphs_->replay(recording->number);
    parameters_.set_stale_gradients(recording->stale_gradients);
  } else if (meet(kind)) {
    recording = record(kind, copy_of(batch, follows_positions));
  }
  if (recording == nullptr) return model_.train(batch);
  ++replays_;
  return recording->result;
}

CapturedTraining::Recording* CapturedTraining::find(const MicroBatchKind& kind) const {
  const auto found = std::find_if(recordings_.begin(), recordings_.end(),
                                  [&](const auto& one) { return one->kind == kind; });
  return found == recordings_.end() ? nullptr : found->get();
}

bool CapturedTraining::meet(const MicroBatchKind& kind) {
  if (recordings_.size() == kRecordings) return false;
  const auto found = std::find(met_.begin(), met_.end(), kind);
  if (found != met_.end()) {
    met_.erase(found);
    return true;
  }
  met_.push_back(kind);
  if (met_.size() > kRemembered) met_.pop_front();
  return false;
}

CapturedTraining::Recording* CapturedTraining::record(const MicroBatchKind& kind,
                                                      MicroBatch batch) {
  const c10::Device device = parameters_.device();
  // Activations take less than what was held at most, which parameters are in.
  const std::optional<int64_t> free = free_memory_bytes(device);
  if (recordings_.empty() && free && *free < peak_memory_bytes(device)) {
    give_up("There is no room on the GPU for a second micro-batch's activations.");
    return nullptr;
  }
  recordings_.push_back(std::make_unique<Recording>());
  Recording& made = *recordings_.back();
  made.kind = kind;
  made.batch = std::move(batch);
  try {
    made.number = graphs_->record([this, &made] { made.result = model_.train(made.batch); });
    graphs_->replay(made.number);
  } catch (const std::exception& exception) {
    parameters_.set_stale_gradients(kind.stale_gradients);
    give_up(as_error(exception).what());
    return nullptr;
  }
  made.stale_gradients = parameters_.stale_gradients();
  return &made;
}

void CapturedTraining::give_up(const std::string& why) {
  graphs_.reset();
  recordings_.clear();
  met_.clear();
  warn_(fmt::format("CUDA graphs are not used, which may cost some percent of the speed. {}", why));
}

}  // namespace swiattn
