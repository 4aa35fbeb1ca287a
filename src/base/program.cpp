#include "base/program.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "base/error.h"
#include "base/version.h"

namespace swiattn {
namespace {

int report(std::string_view name, const std::string& sentence, ExitCode code) {
  std::fflush(stdout);
  fmt::print(stderr, "{}: {}\n", name, sentence);
  return static_cast<int>(code);
}

}  // namespace

int run_program(std::string_view name, const std::function<int()>& body) {
  try {
    return body();
  } catch (const Error& error) {
    return report(name, error.what(), error.code());
  } catch (const std::bad_alloc&) {
    return report(name, "Memory ran out.", ExitCode::kInternal);
  } catch (const std::exception& error) {
    return report(name, fmt::format("Unexpected error: {}", error.what()), ExitCode::kInternal);
  } catch (...) {
    return report(name, "Unexpected error of an unknown kind.", ExitCode::kInternal);
  }
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
