// LibTorch's exceptions as Errors: sentences without a stack trace, with the exit code of their
// kind.
#pragma once

#include <exception>

#include "base/error.h"

namespace swiattn {

// Out of memory is a kConfiguration that says which keys to lower; anything else of LibTorch is
// kInternal with its own message. An Error is returned as it is.
Error as_error(const std::exception& exception);

// Runs `work` and returns its result; whatever it throws leaves as an Error.
template <class Work>
auto with_torch_errors(Work&& work) -> decltype(work()) {
  try {
    return work();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& exception) {
    throw as_error(exception);
  }
}

}  // namespace swiattn
