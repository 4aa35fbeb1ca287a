#include "trainer/trainer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "loss/regularizer.h"
#include "optim/gradient_norm.h"
#include "parallel/agreement.h"
#include "parallel/device.h"
#include "parallel/phase.h"
#include "parallel/torch_errors.h"
#include "parallel/transfer.h"
#include "trainer/flops.h"
#include "trainer/host_batch.h"
#include "trainer/memory_use.h"
#include "trainer/model_setup.h"
#include "trainer/schedule_setup.h"
#include "trainer/signals.h"
#include "trainer/validation.h"

namespace swiattn {
namespace {

AdamWSettings adamw_settings(const RunConfig& config) {
  return {config.optimizer.betas[0],
          config.optimizer.betas[1],
          config.optimizer.eps,
          config.optimizer.weight_decay,
          config.router.learning_rate_multiplier,
          static_cast<uint64_t>(config.run.seed)};
}

std::vector<RoutingRow> routing_rows(const StepReport& report, bool with_router) {
  using S = RoutingStatistics;
  std::vector<RoutingRow> rows;
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const auto& sums = report.layers[i];
    const auto mean = [&](int64_t column, int64_t count) {
      return sums[count] > 0 ? sums[column] / sums[count] : StepMetrics::kNone;
    };
    const auto routed = [&](int64_t column, int64_t count) {
      return with_router ? mean(column, count) : StepMetrics::kNone;
    };
    const double logit = routed(S::kLogit, S::kTokens);
    const double square = routed(S::kLogitSquare, S::kTokens);
    rows.push_back({.layer = static_cast<int64_t>(i) + 1,
                    .full_ratio = mean(S::kFull, S::kTokens),
                    .full_ratio_far = mean(S::kFarFull, S::kFarTokens),
                    .logit_mean = logit,
                    .logit_std = standard_deviation(logit, square),
                    .entropy = routed(S::kEntropy, S::kTokens),
                    .gamma_mean = routed(S::kGamma, S::kCounted),
                    .disagreement_mean = routed(S::kDisagreement, S::kTokens)});
  }
  return rows;
}

}  // namespace

Trainer::Trainer(const Parts& parts, StartingPoint start, BatchStream stream,
                 std::vector<NamedStream> validation)
    : config_(parts.config),
      communicator_(parts.communicator),
      model_(parts.model),
      parameters_(parts.parameters),
      observer_(parts.observer),
      watchdog_(parts.watchdog),
      store_(parts.store),
      profiler_(parts.profiler),
      peak_flops_(parts.peak_flops),
      captured_(parts.captured),
      lag_(parts.lag),
      first_step_(start.progress.step + 1),
      total_steps_(config_.total_steps()),
      schedule_(make_schedule(config_)),
      optimizer_(adamw_settings(config_), parameters_),
      progress_(start.progress),
      micro_batches_(stream.micro_batches()),
      batches_(std::move(stream), start.progress.step + 1),
      validation_(std::move(validation)),
      validated_(std::move(start.validated)) {
  optimizer_.set_updates(progress_.updates);
  if (steers_ratio(config_)) {
    model_.set_gamma(progress_.gamma);
    lag_ = 0;  // every step is computed with what the ratio of the one before has made of gamma
  }
  if (start.saved) saved_step_ = progress_.step;
}

RunOutcome Trainer::run() {
  try {
    return run_steps();
  } catch (const AgreedError&) {  // of all ranks alike, as when steps are not finite
    finish_profile(/*run_ends=*/true);
    throw;
  }
}

RunOutcome Trainer::run_steps() {
  if (progress_.step > 0) save_as_own();
  // A step whose results are not recorded: a stop has left them out, or the keys have changed.
  if (config_.validates_after(progress_.step) && validate()) return stop_here();
  validated_.clear();
  while (progress_.step < total_steps_) {
    if (profiler_ != nullptr) profiler_->before_step(next_step());
    const bool stop = step();
    if (!in_flight_.empty()) continue;  // nothing below is due
    if (stop) return stop_here();
    const int64_t done = progress_.step;
    const bool last = done == total_steps_;
    finish_profile(/*run_ends=*/last);
    if (config_.validates_after(done) && validate()) return stop_here();
    if (!last && done % config_.checkpoint.every == 0) save("; training goes on");
  }
  save();
  return RunOutcome::kFinished;
}

// What goes on from another run's checkpoint would lose its steps and records if it were started
// again without one of its own.
void Trainer::save_as_own() {
  save();
  if (saved()) return;
  throw AgreedError(
      ExitCode::kCheckpoint,
      fmt::format("The run goes on from a checkpoint of step {} that is not one of its own, and "
                  "could not save it as its own, as the warning before this says: mend that, and "
                  "start the same command again.",
                  progress_.step));
}

RunOutcome Trainer::stop_here() {
  save();
  finish_profile(/*run_ends=*/true);
  if (saved()) return RunOutcome::kStopped;
  throw AgreedError(
      ExitCode::kCheckpoint,
      fmt::format("The run was asked to stop at step {}, but its checkpoint could not be saved; "
                  "the next start goes on from the last one that was, or from the beginning.",
                  progress_.step));
}

int64_t Trainer::next_step() const {
  return progress_.step + static_cast<int64_t>(in_flight_.size()) + 1;
}

bool Trainer::step() {
  const int64_t step = next_step();
  const NamedRange range(kStepRange + std::to_string(step));
  try {
    in_flight_.push_back(hand_over(step));
  } catch (const std::exception& failure) {
    settle_alone(failure);
    throw;
  }
  const bool stop = settle(needs_results(step) ? 0 : lag_);
  if (stop) settle(0);
  return stop;
}

Trainer::StepInFlight Trainer::hand_over(int64_t step) {
  const c10::Device device = parameters_.device();
  if (in_flight_.empty()) counting_from_.emplace(device);
  const double waited = batches_.waited_seconds();

  observer_.enter(step, "forward and backward");
  StepSums sums = forward_and_backward(step);
  const double data_seconds = batches_.waited_seconds() - waited;

  observer_.enter(step, "reduce");
  reduce(sums);

  observer_.enter(step, "update");
  update(step, sums);

  const auto watch = watch_queue();
  const NamedRange phase(Phase::kReadBack);
  const at::Tensor on_host = download(sums.tensor());
  const int64_t recordings = captured_ != nullptr ? captured_->memory_bytes() : 0;
  const int64_t peak_memory = peak_memory_bytes(device) + recordings;
  return {step, on_host, DeviceMoment(device), data_seconds, peak_memory};
}

StepSums Trainer::forward_and_backward(int64_t step) {
  StepSums sums(model_.config().layers, parameters_.device());
  parameters_.start_gradients();
  for (int64_t i = 0; i < micro_batches_; ++i) {
    std::optional<NamedRange> phase(std::in_place, Phase::kData);
    const Batch batch = batches_.next();
    const auto watch = watch_queue();
    const MicroBatch micro_batch = model_.prepare(packed_tokens(batch));
    phase.reset();
    const MicroBatchResult result = train(step, micro_batch);
    phase.emplace(Phase::kReadBack);
    sums.add(result, micro_batch);
  }
  const auto watch = watch_queue();
  const NamedRange phase(Phase::kOptimizer);
  parameters_.finish_gradients();
  if (stop_signal() != 0) sums.ask_to_stop();
  return sums;
}

// A profile asks of every launch which phase it belongs to, and so they are made one by one; in the
// two steps before, too, after which such steps allocate nothing any more.
MicroBatchResult Trainer::train(int64_t step, const MicroBatch& batch) {
  const auto& profile = config_.log.profile;
  const bool profiled = profile && (profile->contains(step) || profile->contains(step + 1) ||
                                    profile->contains(step + 2));
  return captured_ != nullptr && !profiled ? captured_->train(batch) : model_.train(batch);
}

void Trainer::reduce(StepSums& sums) {
  if (communicator_.size() == 1) return;
  const NamedRange phase(Phase::kReduce);
  for (FlatUnit& unit : parameters_.units()) {
    if (unit.trainable_numel > 0) communicator_.all_reduce(unit.gradient);
  }
  communicator_.all_reduce(sums.tensor());
}

// Everything here is computed from reduced values, so that all ranks decide alike without asking.
void Trainer::update(int64_t step, StepSums& sums) {
  const auto watch = watch_queue();
  const NamedRange phase(Phase::kOptimizer);
  const at::Tensor counted = sums.counted().clamp_min(1.0);
  const at::Tensor grad_norm = gradient_square_sum(parameters_).sqrt() / counted;
  const at::Tensor clip = (config_.optimizer.clip / (grad_norm + 1e-6)).clamp_max(1.0);
  const at::Tensor finite = grad_norm.isfinite().logical_and(sums.nll().isfinite());
  const at::Tensor apply = finite.logical_and(sums.counted() > 0).to(at::kDouble);
  optimizer_.step(schedule_.learning_rate(step), clip / counted, apply);
  sums.set_update(grad_norm, apply);
}

// A device that waits for other ranks takes no more work when its queue is full.
std::unique_ptr<Watchdog::Watch> Trainer::watch_queue() {
  if (parameters_.device().is_cpu()) return nullptr;
  return std::make_unique<Watchdog::Watch>(watchdog_, "the steps before to leave the GPU's queue");
}

bool Trainer::needs_results(int64_t step) const {
  const auto& profile = config_.log.profile;
  return config_.validates_after(step) || step % config_.checkpoint.every == 0 ||
         (profile && (step + 1 == profile->start || step == profile->last()));
}

bool Trainer::settle(size_t lag) {
  bool stop = false;
  while (in_flight_.size() > lag) {
    StepInFlight oldest = std::move(in_flight_.front());
    in_flight_.pop_front();
    stop = tell(std::move(oldest)) || stop;
  }
  return stop;
}

void Trainer::settle_alone(const std::exception& failure) {
  try {
    settle(0);
  } catch (const AgreedError& end) {
    const std::string both = fmt::format("{} Besides: {}", as_error(failure).what(), end.what());
    if (communicator_.size() == 1) {
      throw AgreedError(end.code(), fmt::format("Step {}: {}", progress_.step + 1, both));
    }
    throw Error(end.code(), both);
  }
}

bool Trainer::tell(StepInFlight flight) {
  wait_for(flight);
  const StepReport report(flight.sums);
  const double seconds = flight.end.seconds_since(*counting_from_);
  StepMetrics metrics = describe(report, flight, seconds);
  advance(report);
  metrics.tokens = progress_.tokens;
  metrics.skipped = progress_.skipped;
  observer_.record(metrics, routing_rows(report, has_router(config_)));
  if (flight.step == first_step_ + 1) {
    observer_.tell(
        describe_peak_memory(memory_use(parameters_), flight.peak_memory, parameters_.device()));
  }
  counting_from_ = std::move(flight.end);
  return report.stop;
}

void Trainer::wait_for(const StepInFlight& flight) {
  const NamedRange phase(Phase::kReadBack);
  const Watchdog::Watch watch(watchdog_, "the step's results");
  flight.end.wait();
}

void Trainer::advance(const StepReport& report) {
  ++progress_.step;
  progress_.tokens += config_.tokens_per_step();
  if (report.applied) {
    ++progress_.updates;
    progress_.skipped_in_a_row = 0;
    skipped_in_a_row_ = {};
  } else {
    skip(report);
  }
  if (steers_ratio(config_)) {
    progress_.gamma =
        next_gamma(progress_.gamma, report.full_ratio(), *config_.regularizer.target_ratio);
    model_.set_gamma(progress_.gamma);
  }
  watchdog_.set_timeout(config_.parallel.timeout);  // the first step has ended
}

void Trainer::skip(const StepReport& report) {
  ++progress_.skipped;
  ++progress_.skipped_in_a_row;
  const bool has_targets = report.counted > 0;
  skipped_in_a_row_.add(has_targets ? SkipReason::kNotFinite : SkipReason::kNoTarget);
  observer_.warn(fmt::format("Step {}: {}; the step is skipped on all ranks.", progress_.step,
                             has_targets
                                 ? "the loss or a gradient is not finite"
                                 : "no token of this step has a target in its own document"));
  if (config_.numerics.skip_nonfinite &&
      progress_.skipped_in_a_row < config_.numerics.max_skips_in_a_row) {
    return;
  }
  // No rank leaves while the work of another needs it.
  for (const StepInFlight& flight : in_flight_) wait_for(flight);
  throw AgreedError(ExitCode::kNumerics,
                    skipped_in_a_row_.describe_end(progress_.step, progress_.skipped_in_a_row));
}

StepMetrics Trainer::describe(const StepReport& report, const StepInFlight& flight,
                              double seconds) const {
  StepMetrics metrics;
  metrics.step = flight.step;
  const bool with_router = has_router(config_);
  describe_routing(report, with_router, with_router && model_.options().objective.gamma.active(),
                   metrics);
  metrics.grad_norm = report.grad_norm;
  metrics.learning_rate = schedule_.learning_rate(flight.step);
  metrics.step_seconds = seconds;
  metrics.data_seconds = flight.data_seconds;
  metrics.tokens_per_second = static_cast<double>(config_.tokens_per_step()) / seconds;
  if (peak_flops_) {
    const double flops = training_flops(model_.config(), config_.tokens_per_step(),
                                        report.total(RoutingStatistics::kVisiblePairs));
    metrics.mfu = flops / (seconds * *peak_flops_ * communicator_.size());
  }
  metrics.memory_gib = static_cast<double>(flight.peak_memory) / (1 << 30);
  return metrics;
}

void Trainer::finish_profile(bool run_ends) {
  const auto& profile = config_.log.profile;
  const int64_t done = progress_.step;
  if (!profile || !(done == profile->last() || (run_ends && profile->contains(done)))) return;
  observer_.enter(done, "profile");
  watchdog_.set_timeout(config_.parallel.timeout_first);  // the others wait for rank 0's disk
  agree_on_root(communicator_, [&] { profiler_->finish(); });
  watchdog_.set_timeout(config_.parallel.timeout);
}

bool Trainer::validate() {
  observer_.enter(progress_.step, "validation");
  // The answer is read a batch later, so that the device has work meanwhile.
  std::optional<StopQuestion> asked;
  const auto goes_on = [&] {
    StopQuestion next = ask_to_stop();
    const bool stop = asked && answer(*asked);
    asked.emplace(std::move(next));
    return !stop;
  };
  for (NamedStream& set : validation_) {
    if (std::find(validated_.begin(), validated_.end(), set.name) != validated_.end()) continue;
    const auto result = validate_model(model_, set, communicator_, watchdog_, goes_on);
    if (!result) return true;
    observer_.record(ValidationMetrics{progress_.step, set.name, result->nll, std::exp(result->nll),
                                       result->full_ratio, result->targets});
  }
  return asked && answer(*asked);
}

Trainer::StopQuestion Trainer::ask_to_stop() {
  const c10::Device device = parameters_.device();
  auto watch = watch_queue();
  at::Tensor ranks = at::full({1}, stop_signal() != 0 ? 1.0 : 0.0,
                              at::TensorOptions().dtype(at::kDouble).device(device));
  watch.reset();
  if (communicator_.size() > 1) communicator_.all_reduce(ranks);
  watch = watch_queue();
  const at::Tensor on_host = download(ranks);
  return {on_host, DeviceMoment(device)};
}

bool Trainer::answer(const StopQuestion& question) {
  const Watchdog::Watch watch(watchdog_, "the other ranks to say whether they were asked to stop");
  question.moment.wait();
  return question.ranks.item<double>() > 0;
}

void Trainer::save(std::string_view otherwise) {
  if (saved()) return;
  observer_.enter(progress_.step, "save");
  bool written = true;
  watchdog_.set_timeout(config_.parallel.timeout_first);  // the others wait for rank 0's disk
  agree_on_root(communicator_, [&] {
    observer_.sync();
    try {
      save_training_checkpoint(*store_, FileSystem::posix(), parameters_, model_.config(), config_,
                               progress_, communicator_.size());
    } catch (const FileError& error) {
      written = false;
      observer_.warn(fmt::format("The checkpoint of step {} was not saved{}. {}", progress_.step,
                                 otherwise, error.what()));
      return;
    }
    // After a skipped step the weights may be spoilt, and an older checkpoint the last good one.
    if (progress_.skipped_in_a_row > 0) return;
    try {
      store_->prune(config_.checkpoint.keep_last, config_.checkpoint.keep_every);
    } catch (const FileError& error) {
      observer_.warn(fmt::format("Old checkpoints were not removed. {}", error.what()));
    }
  });
  written = communicator_.broadcast_text(written ? "written" : "", 0) == "written";
  if (progress_.step >= first_step_) watchdog_.set_timeout(config_.parallel.timeout);
  if (written) saved_step_ = progress_.step;
}

}  // namespace swiattn
