// A communicator whose every operation is under a watchdog.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/watchdog.h"

namespace swiattn {

// Borrows the watchdog.
std::unique_ptr<Communicator> watch(std::unique_ptr<Communicator> communicator, Watchdog& watchdog);

}  // namespace swiattn
