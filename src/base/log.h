// The program's messages: one line each on standard error and, once a run has a folder, in run.log.
#pragma once

#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>

namespace swiattn {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Where messages go. Owned by main, passed by reference; thread-safe.
class Log {
 public:
  virtual ~Log() = default;
  virtual void write(LogLevel level, const std::string& message) = 0;

  template <class... Args>
  void info(fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void warning(fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
  }
  template <class... Args>
  void error(fmt::format_string<Args...> format, Args&&... args) {
    write(LogLevel::kError, fmt::format(format, std::forward<Args>(args)...));
  }
};

// The log of a program. Standard error gets information, "warning: …" and "error: …"; of a rank
// other than 0, whose messages carry "[rank N]", only the latter two. Never throws from write().
class ConsoleLog : public Log {
 public:
  // From now on every message, debug ones too, is also a line of this file, with its time and
  // level. Appends and creates; throws Error{kConfiguration} when that is not possible.
  virtual void attach_file(const std::string& path) = 0;
};
std::unique_ptr<ConsoleLog> make_console_log(int rank);

}  // namespace swiattn
