// The parts of a training step by name, for whoever watches it: ranges that the profiler of a run
// (trainer/profiler.h) and NVIDIA's tools (NVTX: Nsight Systems) see.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>

namespace at {
struct RecordFunction;
}

namespace swiattn {

// The phases of a step. They do not overlap; time in none of them is listed as "other".
enum class Phase {
  kData,       // the next batch, and its way to the device
  kForward,    // embedding, layers, final norm
  kHead,       // head and loss, forward and backward
  kRecompute,  // what the forward of a layer did not keep, before its backward
  kBackward,   // layers and embedding
  kReduce,     // sums over the ranks
  kOptimizer,  // the norm of the gradients, the update
  kReadBack,   // the step's sums, and waiting for them on the host
};

// By their values.
inline constexpr std::array kPhaseNames = {"data",     "forward", "head and loss", "recompute",
                                           "backward", "reduce",  "optimizer",     "read-back"};

// The range around a whole step is named by its number: "step 12".
inline constexpr const char* kStepRange = "step ";

// A name for what this thread does, and hands to the GPU, while the object lives. Ranges nest. One
// costs some hundred nanoseconds when nobody watches, so a step can have hundreds of them.
class NamedRange {
 public:
  explicit NamedRange(Phase phase) : NamedRange(std::string(name(phase))) {}
  explicit NamedRange(const std::string& name);
  ~NamedRange();

  NamedRange(const NamedRange&) = delete;
  NamedRange& operator=(const NamedRange&) = delete;

 private:
  static const char* name(Phase phase) { return kPhaseNames[static_cast<size_t>(phase)]; }

  std::unique_ptr<at::RecordFunction> recorded_;  // only while a profiler records
};

}  // namespace swiattn
