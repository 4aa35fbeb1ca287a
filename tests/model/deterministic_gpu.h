// What a run with numerics.deterministic asks of ATen, while a test computes.
#pragma once

#include "parallel/device.h"

namespace swiattn {

class DeterministicGpu {
 public:
  DeterministicGpu() { choose_algorithms(true); }
  ~DeterministicGpu() { choose_algorithms(false); }

  DeterministicGpu(const DeterministicGpu&) = delete;
  DeterministicGpu& operator=(const DeterministicGpu&) = delete;
};

}  // namespace swiattn
