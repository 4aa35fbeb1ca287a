// swiattn-eval: what a model scores and where it looks far.
#include <CLI/CLI.hpp>

#include "base/program.h"
#include "eval/scoring_command.h"
#include "parallel/torch_errors.h"

int main(int argc, char** argv) {
  return swiattn::run_program("swiattn-eval", [argc, argv] {
    CLI::App app("Evaluates full-attention models and hybrids.", "swiattn-eval");
    app.require_subcommand(1);
    app.fallthrough();
    swiattn::add_perplexity_command(app);
    swiattn::add_routing_command(app);
    return swiattn::with_torch_errors(
        [&] { return swiattn::parse_command_line(app, argc, argv).value_or(0); });
  });
}
