// `swiattn-data bench-stream`: how fast batches come out of a shard on this machine.
#pragma once

namespace CLI {
class App;
}

namespace swiattn {

// Registers the subcommand, which --help does not list: scripts/bench_data uses it.
void add_bench_stream_command(CLI::App& app);

}  // namespace swiattn
