// Work that may fail on some ranks only, made to fail on all.
#pragma once

#include <functional>

#include "base/error.h"
#include "parallel/communicator.h"

namespace swiattn {

// What all ranks throw together, so that it is enough when rank 0 prints it.
class AgreedError : public Error {
 public:
  using Error::Error;
};

// Runs `work` on every rank; when it throws on any, throws on all of them an AgreedError with the
// code and sentence of the lowest rank that failed ("Rank 3: …" unless all failed alike). Without
// it one rank would leave while the others wait for it in their next collective.
void agree(Communicator& communicator, const std::function<void()>& work);

// Like agree(), for work that only rank 0 does; the others wait for its outcome.
void agree_on_root(Communicator& communicator, const std::function<void()>& work);

}  // namespace swiattn
