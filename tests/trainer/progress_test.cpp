#include "trainer/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <limits>
#include <sstream>
#include <thread>

namespace swiattn {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

StepMetrics step_metrics(int64_t step) {
  StepMetrics m;
  m.step = step;
  m.targets = 4096;
  m.loss = 3.11412;
  m.regularizer = 1.234e-4;
  m.full_ratio = 0.4821;
  m.grad_norm = 1.2034;
  m.learning_rate = 1e-4;
  m.tokens_per_second = 12345.4;
  m.mfu = 0.4123;
  m.memory_gib = 35.14;
  return m;
}

// What a terminal shows after these characters: the lines, without what was wiped.
std::string on_screen(const std::string& text) {
  std::string lines, line;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 4, "\r\x1b[K") == 0) {
      line.clear();
      i += 3;
    } else if (text[i] == '\n') {
      lines += line + '\n';
      line.clear();
    } else {
      line += text[i];
    }
  }
  return lines + line;
}

// Columns of UTF-8 text.
size_t columns(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

TEST(ProgressLine, HasEveryNumberOfTheContract) {
  EXPECT_EQ(format_line(step_metrics(1200), 5000),
            "step 1,200/5,000 | loss 3.1141 | reg 1.23e-04 | full ratio 0.482 | grad norm 1.203 | "
            "lr 1.00e-04 | 12,345 tok/s | MFU 41.2% | 35.1 GiB");
}

TEST(ProgressLine, TellsSkippedSteps) {
  StepMetrics metrics = step_metrics(1);
  metrics.skipped = 2;
  EXPECT_THAT(format_line(metrics, 10), EndsWith("GiB | 2 skipped"));
}

TEST(ProgressLine, OfNumbersThatDoNotExistIsADash) {
  StepMetrics metrics;
  metrics.loss = -StepMetrics::kNone;
  const std::string line = format_line(metrics, 10);
  EXPECT_THAT(line, HasSubstr("| loss - | reg - |"));
  EXPECT_THAT(line, HasSubstr("| - tok/s | MFU - |"));
  EXPECT_THAT(format_line(ValidationMetrics{.step = 3, .name = "held"}),
              HasSubstr("| nll - | perplexity - |"));
}

TEST(ProgressLine, OfNumbersThatAreNotFiniteSaysSo) {
  StepMetrics metrics = step_metrics(1);
  for (const double nan : {StepMetrics::kNone, -StepMetrics::kNone}) {
    metrics.loss = metrics.regularizer = metrics.grad_norm = nan;
    EXPECT_THAT(format_line(metrics, 10), HasSubstr("| loss nan | reg nan | full ratio 0.482 | "
                                                    "grad norm nan |"));
    EXPECT_THAT(format_line(ValidationMetrics{3, "held", nan, nan, 0.5, 7}),
                HasSubstr("| nll nan | perplexity nan |"));
  }
  metrics.loss = std::numeric_limits<double>::infinity();
  EXPECT_THAT(format_line(metrics, 10), HasSubstr("loss inf"));
}

TEST(ProgressLine, OfAValidationNamesTheSet) {
  EXPECT_EQ(
      format_line(ValidationMetrics{1500, "austen", 3.0, 20.0857, 0.25, 7}),
      "validation 'austen' after step 1,500 | nll 3.0000 | perplexity 20.086 | full ratio 0.250");
}

TEST(TimeLeft, IsWrittenAsPeopleReadIt) {
  EXPECT_EQ(format_time_left(-1), "0 s");
  EXPECT_EQ(format_time_left(0.2), "1 s");
  EXPECT_EQ(format_time_left(59.5), "1:00");
  EXPECT_EQ(format_time_left(725), "12:05");
  EXPECT_EQ(format_time_left(11220), "3:07:00");
  EXPECT_EQ(format_time_left(86400 * 2 + 3 * 3600 + 5), "2 d 3 h");
}

TEST(Progress, WithoutATerminalPrintsPlainLinesOnly) {
  std::ostringstream out;
  {
    Progress progress(out, 0, 0, 10);
    progress.advance(1);
    progress.print(step_metrics(1));
    progress.write_above([&] { out << "message\n"; });
  }
  EXPECT_EQ(out.str(), format_line(step_metrics(1), 10) + "\nmessage\n");
}

TEST(Progress, OnATerminalKeepsABarBelowTheLines) {
  std::ostringstream out;
  double now = 100;
  {
    Progress progress(out, 80, 1000, 5000, [&] { return now; });
    now = 120;
    progress.print(step_metrics(1010));
    const std::string screen = on_screen(out.str());
    EXPECT_THAT(screen, HasSubstr("35.1 GiB\n"));
    // 10 steps in 20 s: 3990 steps in 7980 s.
    EXPECT_THAT(screen, EndsWith(" 20% 1,010/5,000, 2:13:00 left"));
    EXPECT_LT(columns(screen.substr(screen.find('\n') + 1)), 80U);
  }
  EXPECT_EQ(on_screen(out.str()), format_line(step_metrics(1010), 5000) + "\n");
}

TEST(Progress, KeepsLogLinesWhole) {
  class Lines : public Log {
   public:
    explicit Lines(std::ostream& out) : out_(out) {}
    void write(LogLevel, const std::string& message) override { out_ << message << '\n'; }

   private:
    std::ostream& out_;
  };
  std::ostringstream out;
  {
    Progress progress(out, 60, 0, 100);
    Lines lines(out);
    LogAboveBar log(lines, progress);
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 50; ++i) log.warning("a message");
      });
    }
    for (int64_t step = 1; step <= 100; ++step) progress.advance(step);
  }
  std::string expected;
  for (int i = 0; i < 200; ++i) expected += "a message\n";
  EXPECT_EQ(on_screen(out.str()), expected);
}

TEST(Progress, FitsIntoATerminalOfAnyWidth) {
  for (int width = 1; width <= 200; ++width) {
    for (const int64_t step : {0, 1, 5000, 6000}) {
      std::ostringstream out;
      Progress progress(out, width, 0, 5000);
      progress.advance(step);
      EXPECT_LT(columns(on_screen(out.str())), static_cast<size_t>(width)) << width;
    }
  }
}

TEST(Progress, OfARunWithoutStepsDoesNotDivideByZero) {
  std::ostringstream out;
  Progress progress(out, 80, 0, 0);
  progress.advance(0);
  EXPECT_THAT(out.str(), Not(HasSubstr("nan")));
}

TEST(Terminal, HasItsColumnsAndAFileOrATerminalWithoutSizeHasNone) {
  int controller = -1, terminal = -1;
  winsize size{};
  size.ws_col = 123;
  size.ws_row = 40;
  ASSERT_EQ(openpty(&controller, &terminal, nullptr, nullptr, &size), 0);
  EXPECT_EQ(terminal_columns(terminal), 123);
  close(controller);
  close(terminal);
  ASSERT_EQ(openpty(&controller, &terminal, nullptr, nullptr, nullptr), 0);
  EXPECT_EQ(terminal_columns(terminal), 0);
  close(controller);
  close(terminal);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(terminal_columns(ends[1]), 0);
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace swiattn
