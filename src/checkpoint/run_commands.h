// What swiattn-checkpoint does with the checkpoints of a run: `list RUN`, `prune RUN [--keep N]`,
// and `verify CHECKPOINT` where CHECKPOINT is a folder that swiattn-train wrote.
#pragma once

#include <iosfwd>
#include <string>

#include "base/file_system.h"
#include "base/log.h"

namespace CLI {
class App;
}

namespace swiattn {

// Adds the subcommands `list` and `prune`, each with --json. They run inside app.parse(), print to
// `out` and throw Error{kCheckpoint}. `prune` holds the run's lock: where a run keeps it, it throws
// Error{kConfiguration}. Borrows everything for as long as `app` parses.
void add_run_commands(CLI::App& app, FileSystem& files, Log& log, std::ostream& out);

// Whether a folder is a run's checkpoint, by its manifest or its name, rather than a model folder.
bool is_run_checkpoint(const std::string& folder);

// Reads every byte; prints one line (or an object) when all is well, throws Error{kCheckpoint}
// otherwise.
void verify_run_checkpoint(const std::string& folder, bool as_json, std::ostream& out);

}  // namespace swiattn
