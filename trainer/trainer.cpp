#include "trainer/trainer.h"

#include <ATen/ATen.h>

#include <chrono>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "loss/regularizer.h"
#include "optim/gradient_norm.h"
#include "parallel/agreement.h"
#include "parallel/device.h"
#include "parallel/phase.h"
#include "trainer/flops.h"
#include "trainer/host_batch.h"
#include "trainer/model_setup.h"
#include "trainer/schedule_setup.h"
#include "trainer/signals.h"
#include "trainer/validation.h"

namespace swiattn {
namespace {

double now_seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

AdamWSettings adamw_settings(const RunConfig& config) {
  return {config.optimizer.betas[0], config.optimizer.betas[1], config.optimizer.eps,
          config.optimizer.weight_decay, config.router.learning_rate_multiplier};
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

Trainer::Trainer(const Parts& parts, const TrainingProgress& progress, BatchStream stream,
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
      total_steps_(config_.total_steps()),
      schedule_(make_schedule(config_)),
      optimizer_(adamw_settings(config_), parameters_),
      progress_(progress),
      micro_batches_(stream.micro_batches()),
      batches_(std::move(stream), progress.step + 1),
      validation_(std::move(validation)) {
  optimizer_.set_updates(progress_.updates);
  if (config_.regularizer.kind == RegularizerSection::Kind::kTargetRatio) {
    model_.set_gamma(progress_.gamma);
  }
  if (progress_.step > 0) saved_step_ = progress_.step;
}

RunOutcome Trainer::run() {
  while (progress_.step < total_steps_) {
    if (profiler_ != nullptr) profiler_->before_step(progress_.step + 1);
    const bool stop = step();
    const int64_t done = progress_.step;
    const bool last = done == total_steps_;
    // Who asked to stop may not wait for a validation.
    bool saved = stop && save();
    finish_profile(last || stop);
    if (done % config_.validation.every == 0 || last) validate();
    if (done % config_.checkpoint.every == 0 || last) saved = save();
    if (stop && !last) {
      if (saved) return RunOutcome::kStopped;
      throw AgreedError(
          ExitCode::kCheckpoint,
          fmt::format(
              "The run was asked to stop at step {}, but its checkpoint could not be saved; "
              "it can be resumed from the last one that was.",
              done));
    }
  }
  return RunOutcome::kFinished;
}

bool Trainer::step() {
  const int64_t step = progress_.step + 1;
  const NamedRange range(kStepRange + std::to_string(step));
  const double start = now_seconds();
  const double waited = batches_.waited_seconds();

  observer_.enter(step, "forward and backward");
  {
    const NamedRange phase(Phase::kOptimizer);
    parameters_.zero_gradients();
  }
  StepSums sums = forward_and_backward(step);
  const double data_seconds = batches_.waited_seconds() - waited;

  observer_.enter(step, "reduce");
  reduce(sums);

  observer_.enter(step, "update");
  const Outcome outcome = update(step, sums);

  StepMetrics metrics = describe(outcome.report, now_seconds() - start, data_seconds);
  metrics.grad_norm = outcome.grad_norm;
  advance(outcome.report, outcome.applied);
  metrics.tokens = progress_.tokens;
  metrics.skipped = progress_.skipped;
  metrics.step_seconds = now_seconds() - start;
  observer_.record(metrics, routing_rows(outcome.report, has_router(config_)));
  return outcome.report.stop;
}

StepSums Trainer::forward_and_backward(int64_t step) {
  StepSums sums(model_.config().layers, parameters_.device());
  for (int64_t i = 0; i < micro_batches_; ++i) {
    std::optional<NamedRange> phase(std::in_place, Phase::kData);
    const Batch batch = batches_.next();
    const MicroBatch micro_batch = model_.prepare(packed_tokens(batch));
    phase.reset();
    const MicroBatchResult result = model_.train(micro_batch);
    phase.emplace(Phase::kReadBack);
    sums.add(result, micro_batch);
  }
  if (stop_signal() != 0) sums.ask_to_stop();
  return sums;
}

void Trainer::reduce(StepSums& sums) {
  if (communicator_.size() == 1) return;
  const NamedRange phase(Phase::kReduce);
  for (FlatUnit& unit : parameters_.units()) {
    if (unit.trainable_numel > 0) communicator_.all_reduce(unit.gradient, ReduceOperation::kSum);
  }
  communicator_.all_reduce(sums.tensor(), ReduceOperation::kSum);
}

// Everything here is computed from reduced values, so that all ranks decide alike without asking.
// The device may still wait for other ranks' gradients: hence the watch.
Trainer::Outcome Trainer::update(int64_t step, const StepSums& sums) {
  const Watchdog::Watch watch(watchdog_, "the step's results");
  std::optional<NamedRange> phase(std::in_place, Phase::kOptimizer);
  parameters_.clear_frozen_gradients();
  const at::Tensor counted = sums.counted().clamp_min(1.0);
  const at::Tensor grad_norm = gradient_square_sum(parameters_).sqrt() / counted;
  const at::Tensor clip = (config_.optimizer.clip / (grad_norm + 1e-6)).clamp_max(1.0);
  const at::Tensor apply = grad_norm.isfinite().logical_and(sums.nll().isfinite()).to(at::kDouble);
  optimizer_.step(schedule_.learning_rate(step), clip / counted, apply);
  phase.emplace(Phase::kReadBack);
  return {StepReport(sums), grad_norm.item<double>(), apply.item<double>() != 0.0};
}

void Trainer::advance(const StepReport& report, bool applied) {
  ++progress_.step;
  progress_.tokens += config_.tokens_per_step();
  if (applied) {
    ++progress_.updates;
    progress_.skipped_in_a_row = 0;
  } else {
    ++progress_.skipped;
    ++progress_.skipped_in_a_row;
    observer_.warn(fmt::format(
        "Step {}: the loss or a gradient is not finite; the step is skipped on all ranks.",
        progress_.step));
    if (!config_.numerics.skip_nonfinite ||
        progress_.skipped_in_a_row >= config_.numerics.max_skips_in_a_row) {
      throw AgreedError(
          ExitCode::kNumerics,
          fmt::format("Step {}: {} steps in a row were not finite. The weights are those of step "
                      "{}; lower the learning rate, look at the data of these steps, or resume "
                      "from an earlier checkpoint.",
                      progress_.step, progress_.skipped_in_a_row,
                      progress_.step - progress_.skipped_in_a_row));
    }
  }
  if (config_.regularizer.kind == RegularizerSection::Kind::kTargetRatio) {
    progress_.gamma =
        next_gamma(progress_.gamma, report.full_ratio(), *config_.regularizer.target_ratio);
    model_.set_gamma(progress_.gamma);
  }
  watchdog_.set_timeout(config_.parallel.timeout);  // the first step has ended
}

StepMetrics Trainer::describe(const StepReport& report, double seconds, double data_seconds) const {
  StepMetrics metrics;
  metrics.step = progress_.step + 1;
  const bool with_router = has_router(config_);
  describe_routing(report, with_router, with_router && model_.options().objective.gamma.active(),
                   metrics);
  metrics.learning_rate = schedule_.learning_rate(metrics.step);
  metrics.data_seconds = data_seconds;
  metrics.tokens_per_second = static_cast<double>(config_.tokens_per_step()) / seconds;
  if (peak_flops_) {
    const double flops = training_flops(model_.config(), config_.tokens_per_step(),
                                        report.total(RoutingStatistics::kVisiblePairs));
    metrics.mfu = flops / (seconds * *peak_flops_ * communicator_.size());
  }
  metrics.memory_gib = static_cast<double>(peak_memory_bytes(parameters_.device())) / (1 << 30);
  return metrics;
}

void Trainer::finish_profile(bool last_step) {
  const auto& profile = config_.log.profile;
  const int64_t done = progress_.step;
  if (!profile || !(done == profile->last() || (last_step && profile->contains(done)))) return;
  observer_.enter(done, "profile");
  watchdog_.set_timeout(config_.parallel.timeout_first);  // the others wait for rank 0's disk
  agree_on_root(communicator_, [&] { profiler_->finish(); });
  watchdog_.set_timeout(config_.parallel.timeout);
}

void Trainer::validate() {
  observer_.enter(progress_.step, "validation");
  for (NamedStream& set : validation_) {
    const ValidationResult result = validate_model(model_, set, communicator_, watchdog_);
    observer_.record(ValidationMetrics{progress_.step, set.name, result.nll, std::exp(result.nll),
                                       result.full_ratio});
  }
}

bool Trainer::save() {
  if (saved_step_ == progress_.step) return true;
  observer_.enter(progress_.step, "save");
  bool saved = true;
  watchdog_.set_timeout(config_.parallel.timeout_first);  // the others wait for rank 0's disk
  agree_on_root(communicator_, [&] {
    observer_.sync();
    try {
      save_training_checkpoint(*store_, FileSystem::posix(), parameters_, model_.config(), config_,
                               progress_, communicator_.size());
    } catch (const FileError& error) {
      saved = false;
      observer_.warn(fmt::format("The checkpoint of step {} was not saved; training goes on. {}",
                                 progress_.step, error.what()));
      return;
    }
    try {
      store_->prune(config_.checkpoint.keep_last, config_.checkpoint.keep_every);
    } catch (const FileError& error) {
      observer_.warn(fmt::format("Old checkpoints were not removed. {}", error.what()));
    }
  });
  saved = communicator_.broadcast_text(saved ? "saved" : "", 0) == "saved";
  watchdog_.set_timeout(config_.parallel.timeout);
  if (saved) saved_step_ = progress_.step;
  return saved;
}

}  // namespace swiattn
