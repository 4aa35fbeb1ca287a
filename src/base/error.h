// The one exception type that leaves the project's libraries, and the exit codes of its programs.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace swiattn {

// What a program returns to the shell. Scripts rely on these numbers.
enum class ExitCode : int {
  kDone = 0,
  kInternal = 1,       // a bug of ours: a violated SWIATTN_CHECK or an exception of a library
  kConfiguration = 2,  // a wrong flag, key, value or combination of them
  kData = 3,           // token shards, text, tokenizers
  kCheckpoint = 4,     // model folders, safetensors files, run checkpoints
  kCommunication = 5,  // a collective failed or timed out
  kNumerics = 6,       // too many non-finite steps in a row
  kPreempted = 75,     // stopped by a signal, after saving
};

// A failure that a person has to mend. The message is one or more whole sentences that name the
// file, key or tensor, say what was found and what was expected, and how to mend it.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// Throws an Error whose sentence is formatted as by fmt::format.
template <class... Args>
[[noreturn]] void fail(ExitCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace swiattn
