// `swiattn-data inspect`: what a token shard holds.
#pragma once

namespace CLI {
class App;
}

namespace swiattn {

// Registers the subcommand. Its callback prints a report on standard output (one JSON object with
// --json) and throws an Error when the shard or the document is not there.
void add_inspect_command(CLI::App& app);

}  // namespace swiattn
