// Small facts about the machine and the moment.
#pragma once

#include <string>

namespace swiattn {

std::string host_name();

// "2026-05-01T12:34:56Z".
std::string utc_now();

}  // namespace swiattn
