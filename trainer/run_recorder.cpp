#include "trainer/run_recorder.h"

#include <unistd.h>

#include <iostream>

namespace swiattn {

RunRecorder::RunRecorder(FileSystem& files, const RunFolder& folder, const RunConfig& config,
                         int64_t resumed_step, Log& log, std::ostream* echo)
    : files_(files),
      folder_(folder),
      config_(config),
      progress_(std::cerr, terminal_columns(STDERR_FILENO), resumed_step, config.total_steps()),
      log_(log, progress_),
      metrics_(files, folder.metrics(), resumed_step, log_, echo),
      status_(files, folder.status()) {
  cut_routing_back(files, folder.routing(), resumed_step);
  if (config.log.tensorboard) {
    tensorboard_ =
        std::make_unique<TensorboardWriter>(files, folder.tensorboard(), resumed_step, log_);
  }
}

RunRecorder::~RunRecorder() = default;

void RunRecorder::enter(int64_t step, std::string_view phase) { status_.update(step, phase); }

void RunRecorder::record(const StepMetrics& metrics, const std::vector<RoutingRow>& routing) {
  metrics_.record(metrics);
  if (tensorboard_) tensorboard_->record(metrics);
  const int64_t step = metrics.step;
  const bool last = step == config_.total_steps();
  if (step % config_.log.routing_every == 0 || last) {
    write_routing_csv(files_, folder_.routing(), step, routing, log_);
  }
  if (step % config_.log.every == 0 || last) progress_.print(metrics);
  progress_.advance(step);
}

void RunRecorder::record(const ValidationMetrics& metrics) {
  metrics_.record(metrics);
  if (tensorboard_) tensorboard_->record(metrics);
  progress_.print(metrics);
}

void RunRecorder::warn(const std::string& sentence) {
  log_.warning("{}", sentence);
  status_.report_error(sentence);
}

void RunRecorder::fail(const std::string& sentence) { status_.report_error(sentence); }

}  // namespace swiattn
