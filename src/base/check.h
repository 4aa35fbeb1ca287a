// Checks of conditions that only a programming error can violate.
#pragma once

#include "base/error.h"

// Throws Error{kInternal} naming the condition and the place when `condition` is false. The rest is
// a format string with arguments. For conditions that input can violate use fail() instead.
#define SWIATTN_CHECK(condition, ...)                                                      \
  do {                                                                                     \
    if (!(condition)) [[unlikely]] {                                                       \
      ::swiattn::fail(::swiattn::ExitCode::kInternal, "Internal error at {}:{}: {} ({}).", \
                      __FILE__, __LINE__, ::fmt::format(__VA_ARGS__), #condition);         \
    }                                                                                      \
  } while (false)
