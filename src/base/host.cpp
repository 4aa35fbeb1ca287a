#include "base/host.h"

#include <fmt/chrono.h>
#include <unistd.h>

#include <ctime>

namespace swiattn {

std::string host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return "unknown";
  return name;
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

}  // namespace swiattn
