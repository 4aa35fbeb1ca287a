// What the main functions of all programs share: exit codes and messages for whatever goes wrong.
#pragma once

#include <functional>
#include <optional>
#include <string_view>

namespace CLI {
class App;
}

namespace swiattn {

class Log;

// Runs `body` and returns its result. An exception becomes one line on standard error, "NAME: …",
// and an exit code: that of an Error, kInternal for anything else.
int run_program(std::string_view name, const std::function<int()>& body);

// The same with the line going to the log.
int run_program(Log& log, const std::function<int()>& body);

// Adds --version and parses. Returns nothing when the program may go on, else its exit code, with
// the text for it printed:
// 0 after --help or --version, kConfiguration after a wrong flag.
std::optional<int> parse_command_line(CLI::App& app, int argc, const char* const* argv);

}  // namespace swiattn
