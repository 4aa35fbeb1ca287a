#include "parallel/torch_errors.h"

#include <c10/util/Exception.h>

#include <new>
#include <string>
#include <string_view>

namespace swiattn {
namespace {

// The first line: what follows is advice about PyTorch's allocator, or a trace.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

Error out_of_memory(const std::string& details) {
  return {ExitCode::kConfiguration,
          fmt::format("Memory ran out: {} Try train.recompute selective or layer and "
                      "optimizer.moments bfloat16, lower train.micro_batch or "
                      "data.sequence_length (of swiattn-eval: --sequence-length), or take a device "
                      "with more memory.",
                      details)};
}

}  // namespace

Error as_error(const std::exception& exception) {
  if (const auto* error = dynamic_cast<const Error*>(&exception)) return *error;
  if (dynamic_cast<const std::bad_alloc*>(&exception) != nullptr) {
    return out_of_memory("the program asked for more than the machine has.");
  }
  const auto* torch = dynamic_cast<const c10::Error*>(&exception);
  if (torch == nullptr) {
    return {ExitCode::kInternal, fmt::format("Unexpected error: {}", exception.what())};
  }
  const std::string sentence = first_line(torch->what_without_backtrace());
  // The CPU's allocator has no type of its own for this.
  const bool cpu_memory = sentence.find("can't allocate memory") != std::string::npos;
  if (cpu_memory || dynamic_cast<const c10::OutOfMemoryError*>(torch) != nullptr) {
    return out_of_memory(sentence);
  }
  return {ExitCode::kInternal, fmt::format("Unexpected error of LibTorch: {}", sentence)};
}

}  // namespace swiattn
