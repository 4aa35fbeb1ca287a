// `swiattn-data tokenize`: text in, a token shard out.
#pragma once

namespace CLI {
class App;
}

namespace swiattn {

// Registers the subcommand `tokenize` with its flags. Its callback does the work while CLI11
// parses: it prints the result on standard output (one JSON object with --json) and throws an Error
// when something went wrong.
void add_tokenize_command(CLI::App& app);

}  // namespace swiattn
