#include "base/program.h"

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "base/version.h"

namespace swiattn {
namespace {

using Report = std::function<void(const std::string& sentence)>;

// Whether all that went to standard output, by whichever way, arrived there.
bool written(std::ostream& out) {
  out.flush();
  return out.good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
}

int run_and_report(const Report& report, const std::function<int()>& body) {
  // A file that grows past the limit of this process is then a write that failed, and no death.
  std::signal(SIGXFSZ, SIG_IGN);
  ExitCode code = ExitCode::kInternal;
  std::string sentence;
  try {
    const int result = body();
    if (result != 0 || written(std::cout)) return result;
    sentence = "Standard output could not be written: is its disk full?";
  } catch (const Error& error) {
    code = error.code();
    sentence = error.what();
  } catch (const std::bad_alloc&) {
    sentence = "Memory ran out.";
  } catch (const std::exception& error) {
    sentence = fmt::format("Unexpected error: {}", error.what());
  } catch (...) {
    sentence = "Unexpected error of an unknown kind.";
  }
  std::fflush(stdout);
  report(sentence);
  return static_cast<int>(code);
}

}  // namespace

int run_program(std::string_view name, const std::function<int()>& body) {
  return run_and_report(
      [&](const std::string& sentence) {
        std::fputs(fmt::format("{}: {}\n", name, sentence).c_str(), stderr);  // closed or not
      },
      body);
}

int run_program(Log& log, const std::function<int()>& body) {
  return run_and_report([&](const std::string& sentence) { log.error("{}", sentence); }, body);
}

std::optional<int> parse_command_line(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.set_version_flag("--version", fmt::format("{} {}", app.get_name(), kVersion));
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ExitCode::kConfiguration);
  }
}

}  // namespace swiattn
