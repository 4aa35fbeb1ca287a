// What swiattn-checkpoint does with model folders: `import HF_DIR OUT`, `export CHECKPOINT OUT
// [--base]`, and `verify` of either kind of folder.
#pragma once

#include <iosfwd>

#include "base/file_system.h"
#include "base/log.h"

namespace CLI {
class App;
}

namespace swiattn {

// Adds the subcommands, each with --json. They run inside app.parse(), print to `out` and throw
// Error{kCheckpoint}. Borrows everything for as long as `app` parses.
void add_model_commands(CLI::App& app, FileSystem& files, Log& log, std::ostream& out);

}  // namespace swiattn
