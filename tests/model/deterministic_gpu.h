// What a run with numerics.deterministic asks of ATen, while a test computes.
#pragma once

#include <ATen/Context.h>

namespace swiattn {

class DeterministicGpu {
 public:
  DeterministicGpu() {
    at::globalContext().setDeterministicAlgorithms(true, false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~DeterministicGpu() { at::globalContext().setDeterministicAlgorithms(false, false); }

  DeterministicGpu(const DeterministicGpu&) = delete;
  DeterministicGpu& operator=(const DeterministicGpu&) = delete;
};

}  // namespace swiattn
