// The observer of rank 0: metrics.jsonl, TensorBoard, routing CSVs, status.json and the console.
#pragma once

#include <iosfwd>
#include <memory>

#include "base/log.h"
#include "trainer/metrics_writer.h"
#include "trainer/progress.h"
#include "trainer/run_config.h"
#include "trainer/run_folder.h"
#include "trainer/run_observer.h"
#include "trainer/status_file.h"
#include "trainer/tensorboard_writer.h"

namespace swiattn {

class RunRecorder final : public RunObserver {
 public:
  // Goes on after `resumed_step` (0: a new run), cutting back what later steps left. What
  // metrics.jsonl gets goes to `echo`, too, unless that is null. Borrows all.
  RunRecorder(FileSystem& files, const RunFolder& folder, const RunConfig& config,
              int64_t resumed_step, Log& log, std::ostream* echo);
  ~RunRecorder() override;

  void enter(int64_t step, std::string_view phase) override;
  void record(const StepMetrics& metrics, const std::vector<RoutingRow>& routing) override;
  void record(const ValidationMetrics& metrics) override;
  void tell(const std::string& sentence) override { log_.info("{}", sentence); }
  void warn(const std::string& sentence) override;
  void fail(const std::string& sentence) override;
  void sync() override { metrics_.sync(); }

 private:
  FileSystem& files_;
  const RunFolder& folder_;
  const RunConfig& config_;
  Progress progress_;
  LogAboveBar log_;
  MetricsWriter metrics_;
  std::unique_ptr<TensorboardWriter> tensorboard_;  // null when switched off
  StatusFile status_;
};

}  // namespace swiattn
