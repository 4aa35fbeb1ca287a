// `swiattn-data verify`: whether a token shard is what it should be, down to the last token.
#pragma once

namespace CLI {
class App;
}

namespace swiattn {

// Registers the subcommand. Its callback prints what was checked on standard output (one JSON
// object with --json) and throws Error{kData} with a sentence for each thing that is wrong.
void add_verify_command(CLI::App& app);

}  // namespace swiattn
