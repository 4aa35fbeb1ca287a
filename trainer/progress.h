// What a person sees of a run on the console: a line a step, and on a terminal a bar below them
// with the time left.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <ostream>
#include <string>

#include "base/log.h"
#include "trainer/metrics.h"

namespace swiattn {

// Seconds on a clock that never goes back.
double steady_seconds();

// The width of the terminal that this descriptor is, or 0 when it is none. (mpirun gives its
// processes terminals without a size: no place for a bar.)
int terminal_columns(int descriptor);

// Thread-safe.
class Progress {
 public:
  // Writes to `out`, which outlives this. `columns`: of the terminal, 0 for lines only. The run is
  // at `first_step` of `steps`. `clock` measures the time left.
  Progress(std::ostream& out, int columns, int64_t first_step, int64_t steps,
           std::function<double()> clock = steady_seconds);
  ~Progress();  // wipes the bar

  void advance(int64_t step);              // moves the bar
  void print(const StepMetrics& metrics);  // the line of a step
  void print(const ValidationMetrics& metrics);

  // Runs `write`, which prints to the same terminal, with the bar out of the way.
  void write_above(const std::function<void()>& write);

 private:
  std::string bar() const;

  std::ostream& out_;
  const int columns_;
  const int64_t first_step_;
  const int64_t steps_;
  const std::function<double()> clock_;
  const double start_;
  std::mutex mutex_;
  int64_t step_;
};

// The line of a step, without a newline; of a number that does not exist it has a dash:
//   step 12/5,000 | loss 3.1141 | reg 1.2e-04 | full ratio 0.482 | grad norm 1.200 | lr 1.00e-04 |
//   …
std::string format_line(const StepMetrics& metrics, int64_t steps);
std::string format_line(const ValidationMetrics& metrics);

// "45 s", "12:05", "3:07:00", "2 d 3 h".
std::string format_time_left(double seconds);

// A log whose messages do not run into the bar.
class LogAboveBar : public Log {
 public:
  LogAboveBar(Log& log, Progress& progress) : log_(log), progress_(progress) {}
  void write(LogLevel level, const std::string& message) override {
    progress_.write_above([&] { log_.write(level, message); });
  }

 private:
  Log& log_;
  Progress& progress_;
};

}  // namespace swiattn
