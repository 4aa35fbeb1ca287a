// What a profile says in numbers: where the time of the profiled steps went, by kernel and by
// phase.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace swiattn {

// Something with a name, a begin and an end in nanoseconds, of one clock for host and GPU. An id of
// 0 is none.
struct ProfileEvent {
  enum class Kind {
    kStep,      // a step of training, on the host
    kPhase,     // a phase of a step, on the host: by the names that summarize_profile() is given
    kOperator,  // a call of a tensor operator; they nest
    kLaunch,    // a call that hands work to the GPU
    kGpuWork,   // a kernel, a copy or a fill on the GPU
  };
  Kind kind = Kind::kStep;
  std::string name;
  int64_t start = 0;
  int64_t end = 0;
  uint64_t thread = 0;  // of an operator: calls nest within one thread
  uint64_t call = 0;    // of an operator: its id; of GPU work: the operator that launched it
  uint64_t launch = 0;  // of a launch and of the work that it hands over
};

// All times are milliseconds of a mean step.
struct ProfileSummary {
  struct PhaseTime {
    std::string name;
    double host_milliseconds = 0.0;
    double gpu_milliseconds = 0.0;  // 0 without a GPU
    double share = 0.0;             // of the step: of its GPU time, without a GPU of its host time
  };
  struct KernelTime {
    std::string name;       // short, for people (trainer/kernel_name.h)
    std::string full_name;  // what rows are told apart by
    double calls = 0.0;
    double mean_microseconds = 0.0;
    double milliseconds = 0.0;
    double share = 0.0;  // of all kernels
  };

  int64_t steps = 0;
  double step_milliseconds = 0.0;
  bool on_gpu = false;
  double idle_share = 0.0;        // of the step, in which the GPU had nothing to do
  std::vector<PhaseTime> phases;  // in the order given, and "other"; with idle_share they sum to 1
  std::vector<KernelTime> kernels;  // the longest first; without a GPU operators, by their own time
  // Whether every step has GPU work: if not, the profiler has lost some.
  bool complete = true;
};

// The events may stand in any order. What happens outside of steps does not count. Work of the GPU
// belongs to the phase in which it was launched; where several kernels run at once, the time counts
// for the first. `on_gpu` says which of kernels and operators is asked for.
ProfileSummary summarize_profile(const std::vector<ProfileEvent>& events,
                                 const std::vector<std::string>& phases, bool on_gpu);

}  // namespace swiattn
