// swiattn-data: text into token shards, and what shards hold.
#include <CLI/CLI.hpp>
#include <string>

#include "base/program.h"
#include "data/bench_stream_command.h"
#include "data/inspect_command.h"
#include "data/tokenize_command.h"
#include "data/verify_command.h"

int main(int argc, char** argv) {
  return swiattn::run_program("swiattn-data", [argc, argv] {
    CLI::App app("Makes token shards from text and checks them.", "swiattn-data");
    app.require_subcommand(1);
    app.fallthrough();
    std::string device = "cpu";
    app.add_option("--device", device, "Accepted as by every program; all work here is the CPU's")
        ->check(CLI::IsMember({"cpu", "cuda"}));
    swiattn::add_tokenize_command(app);
    swiattn::add_inspect_command(app);
    swiattn::add_verify_command(app);
    swiattn::add_bench_stream_command(app);
    return swiattn::parse_command_line(app, argc, argv).value_or(0);
  });
}
