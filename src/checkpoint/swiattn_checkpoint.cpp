// swiattn-checkpoint: looks at, converts and prunes checkpoints and model folders.
#include <CLI/CLI.hpp>
#include <iostream>

#include "base/log.h"
#include "base/program.h"
#include "checkpoint/model_commands.h"
#include "checkpoint/run_commands.h"

namespace swiattn {
namespace {

int run(int argc, char** argv) {
  CLI::App app("Checkpoints of runs and Hugging Face model folders.", "swiattn-checkpoint");
  app.require_subcommand(1);
  app.fallthrough();
  std::string device = "cpu";
  app.add_option("--device", device, "Accepted as by the other programs; this one needs no GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  const auto log = make_console_log(0);
  add_run_commands(app, FileSystem::posix(), *log, std::cout);
  add_model_commands(app, FileSystem::posix(), *log, std::cout);
  return parse_command_line(app, argc, argv).value_or(0);
}

}  // namespace
}  // namespace swiattn

int main(int argc, char** argv) {
  return swiattn::run_program("swiattn-checkpoint", [&] { return swiattn::run(argc, argv); });
}
