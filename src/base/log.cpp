#include "base/log.h"

#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/dist_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include "base/error.h"

namespace swiattn {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

// "warning: " and "error: " before those messages, nothing before information.
class LevelPrefix : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&,
              spdlog::memory_buf_t& line) override {
    std::string_view prefix;
    if (message.level == spdlog::level::warn) prefix = "warning: ";
    if (message.level >= spdlog::level::err) prefix = "error: ";
    line.append(prefix.data(), prefix.data() + prefix.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<LevelPrefix>();
  }
};

class SpdlogConsoleLog : public ConsoleLog {
 public:
  explicit SpdlogConsoleLog(int rank)
      : prefix_(rank == 0 ? "" : fmt::format("[rank {}] ", rank)),
        sinks_(std::make_shared<spdlog::sinks::dist_sink_mt>()),
        logger_("swiattn", sinks_) {
    auto formatter = std::make_unique<spdlog::pattern_formatter>();
    formatter->add_flag<LevelPrefix>('*').set_pattern("%*%v");
    auto console = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    console->set_formatter(std::move(formatter));
    console->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
    sinks_->add_sink(std::move(console));
    logger_.set_level(spdlog::level::debug);
    logger_.flush_on(spdlog::level::debug);  // a killed run has said everything it had to say
  }

  void write(LogLevel level, const std::string& message) override {
    logger_.log(to_spdlog(level), "{}{}", prefix_, message);
  }

  void attach_file(const std::string& path) override try {
    auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    file->set_pattern("%Y-%m-%d %H:%M:%S.%e %l: %v");
    sinks_->add_sink(std::move(file));
  } catch (const spdlog::spdlog_ex& error) {
    fail(ExitCode::kConfiguration, "The log file '{}' cannot be opened: {}.", path, error.what());
  }

 private:
  std::string prefix_;
  std::shared_ptr<spdlog::sinks::dist_sink_mt> sinks_;
  spdlog::logger logger_;
};

}  // namespace

std::unique_ptr<ConsoleLog> make_console_log(int rank) {
  return std::make_unique<SpdlogConsoleLog>(rank);
}

}  // namespace swiattn
