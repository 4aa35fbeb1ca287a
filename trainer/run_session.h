// One start of swiattn-train, from the command line to the exit code.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "parallel/mpi_session.h"

namespace swiattn {

struct TrainArguments {
  std::string config_path;
  std::vector<std::string> overrides;  // "--section.key=value"
  std::string resume = "auto";         // auto | never | a checkpoint folder
  std::vector<std::string> allowed_changes;
  std::string device;  // cpu | cuda | "" for a GPU if there is one
  bool json = false;   // the records of metrics.jsonl to standard output, too
  std::vector<std::string> command_line;
};

// Trains, or goes on training. Collective. Returns kDone or kPreempted and throws Error otherwise.
ExitCode run_session(const TrainArguments& arguments, const MpiSession& mpi, ConsoleLog& log);

}  // namespace swiattn
