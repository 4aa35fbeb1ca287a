#include "trainer/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace swiattn {
namespace {

constexpr const char* kWipe = "\r\x1b[K";  // to the start of the line, erase to its end

// 12345 → "12,345".
std::string grouped(int64_t value) {
  std::string digits = std::to_string(value);
  for (int64_t at = static_cast<int64_t>(digits.size()) - 3; at > (value < 0); at -= 3) {
    digits.insert(static_cast<size_t>(at), ",");
  }
  return digits;
}

std::string repeated(const char* glyph, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += glyph;
  return text;
}

// A NaN has a sign, which says nothing.
std::string number(fmt::format_string<double&> format, double value) {
  return std::isnan(value) ? "nan" : fmt::format(format, value);
}

std::string number_or_dash(fmt::format_string<double&> format, double value, bool exists) {
  return exists ? number(format, value) : "-";
}

}  // namespace

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int terminal_columns(int descriptor) {
  winsize size{};
  if (!isatty(descriptor) || ioctl(descriptor, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
}

Progress::Progress(std::ostream& out, int columns, int64_t first_step, int64_t steps,
                   std::function<double()> clock)
    : out_(out),
      columns_(columns),
      first_step_(first_step),
      steps_(steps),
      clock_(std::move(clock)),
      start_(clock_()),
      step_(first_step) {}

Progress::~Progress() {
  if (columns_ > 0) out_ << kWipe << std::flush;
}

void Progress::advance(int64_t step) {
  write_above([&] { step_ = step; });
}

void Progress::print(const StepMetrics& metrics) {
  write_above([&] {
    step_ = metrics.step;
    out_ << format_line(metrics, steps_) << '\n';
  });
}

void Progress::print(const ValidationMetrics& metrics) {
  write_above([&] { out_ << format_line(metrics) << '\n'; });
}

void Progress::write_above(const std::function<void()>& write) {
  const std::lock_guard lock(mutex_);
  if (columns_ > 0) out_ << kWipe << std::flush;
  write();
  if (columns_ > 0) out_ << bar();
  out_ << std::flush;
}

std::string Progress::bar() const {
  const double share = steps_ > 0 ? std::clamp(static_cast<double>(step_) / steps_, 0.0, 1.0) : 0;
  std::string end =
      fmt::format(" {:3.0f}% {}/{}", std::floor(100 * share), grouped(step_), grouped(steps_));
  if (step_ > first_step_) {
    const double seconds_a_step = (clock_() - start_) / static_cast<double>(step_ - first_step_);
    end += ", " + format_time_left(seconds_a_step * static_cast<double>(steps_ - step_)) + " left";
  }
  // One column stays free: a full line would wrap.
  const int width = std::min(60, columns_ - 1 - static_cast<int>(end.size()));
  if (width < 4) return end.substr(0, static_cast<size_t>(std::max(0, columns_ - 1)));
  const int filled = static_cast<int>(share * width);
  return repeated("━", filled) + repeated("┄", width - filled) + end;
}

std::string format_line(const StepMetrics& m, int64_t steps) {
  std::string line = fmt::format(
      "step {}/{} | loss {} | reg {} | full ratio {:.3f} | grad norm {} | lr {:.2e} | "
      "{} tok/s | MFU {} | {:.1f} GiB",
      grouped(m.step), grouped(steps), number_or_dash("{:.4f}", m.loss, m.targets > 0),
      number_or_dash("{:.2e}", m.regularizer, m.targets > 0), m.full_ratio,
      number("{:.3f}", m.grad_norm), m.learning_rate,
      std::isfinite(m.tokens_per_second) ? grouped(std::llround(m.tokens_per_second)) : "-",
      number_or_dash("{:.1f}%", 100 * m.mfu, !std::isnan(m.mfu)), m.memory_gib);
  if (m.skipped > 0) line += fmt::format(" | {} skipped", m.skipped);
  return line;
}

std::string format_line(const ValidationMetrics& m) {
  return fmt::format("validation '{}' after step {} | nll {} | perplexity {} | full ratio {:.3f}",
                     m.name, grouped(m.step), number_or_dash("{:.4f}", m.nll, m.targets > 0),
                     number_or_dash("{:.3f}", m.perplexity, m.targets > 0), m.full_ratio);
}

std::string format_time_left(double seconds) {
  const auto all = static_cast<int64_t>(std::ceil(std::max(0.0, seconds)));
  if (all < 60) return fmt::format("{} s", all);
  if (all < 3600) return fmt::format("{}:{:02}", all / 60, all % 60);
  if (all < 86400) return fmt::format("{}:{:02}:{:02}", all / 3600, all / 60 % 60, all % 60);
  return fmt::format("{} d {} h", all / 86400, all / 3600 % 24);
}

}  // namespace swiattn
