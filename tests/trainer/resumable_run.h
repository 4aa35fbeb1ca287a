// A run on one rank or several that is started, interrupted and started again, as its user would.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "../base/temporary_folder.h"
#include "small_run.h"

namespace swiattn {

constexpr int kSteps = 12;

// A small model and data in root(), and the command that trains it there.
class ResumableRun {
 public:
  explicit ResumableRun(int ranks);

  std::string root() const { return folder_.path(); }
  std::string folder(const std::string& name) const { return root() + "/" + name; }

  std::string command(const std::string& name, const std::string& flags = "") const;
  ProgramResult train(const std::string& name, const std::string& flags = "") const;

  // Starts the run in a process group of its own and returns its process id.
  pid_t start(const std::string& name, const std::string& flags = "") const;

  // Starts the run, asks it to stop as soon as `seen` says so, and returns its exit code: that of a
  // whole run if it ended before.
  int stop_when(const std::function<bool()>& seen, const std::string& name,
                const std::string& flags = "") const;

  // Losses of all steps, validation included, and the hash of the weights: what must be equal.
  std::string outcome(const std::string& name) const;

  // SIGKILL to every rank; waits until they are gone.
  void kill_ranks() const;

 private:
  int ranks_;
  TemporaryFolder folder_;
};

}  // namespace swiattn
