// What environment.json records about a start of a run.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/json.h"

namespace swiattn {

// What only the program knows.
struct ProgramFacts {
  std::vector<std::string> command_line;
  std::map<std::string, std::string> versions;  // "swiattn", "torch", "cuda", "nccl", …
  std::vector<std::string> gpus;                // one sentence each; empty on the CPU
  int ranks = 1;
};

// These facts with the time, host, system, processor, memory, folder, and the commit of the clone
// that the program lies in.
nlohmann::ordered_json describe_environment(const ProgramFacts& facts);

// The commit that is checked out in the git repository around `folder`, or "" when there is none.
std::string find_git_commit(const std::string& folder);

}  // namespace swiattn
