// `swiattn-eval perplexity` and `swiattn-eval routing`: the same pass over documents, reported as a
// loss or layer by layer.
#pragma once

namespace CLI {
class App;
}

namespace swiattn {

// Register the subcommands with their flags. They run while CLI11 parses, print to standard output
// (one JSON object with --json) and throw Error.
void add_perplexity_command(CLI::App& app);
void add_routing_command(CLI::App& app);

}  // namespace swiattn
