// Work that may fail on some ranks only, made to fail on all.
#pragma once

#include <functional>

#include "parallel/communicator.h"

namespace swiattn {

// Runs `work` on every rank; when it throws on any, throws on all of them an Error with the code
// and sentence of the lowest rank that failed ("rank 3: …" when there are several). Without it one
// rank would leave while the others wait for it in their next collective.
void agree(Communicator& communicator, const std::function<void()>& work);

// Like agree(), for work that only rank 0 does; the others wait for its outcome.
void agree_on_root(Communicator& communicator, const std::function<void()>& work);

}  // namespace swiattn
