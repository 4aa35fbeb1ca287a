// Why the steps of a streak were skipped, and what is to be said when it ends the run.
#pragma once

#include <cstdint>
#include <string>

namespace swiattn {

enum class SkipReason {
  kNotFinite,  // the loss or a gradient
  kNoTarget,   // of any token in its own document
};

// Counts steps in a row. Those before the start of the program are not among them: why they were
// skipped is not saved.
class SkippedSteps {
 public:
  void add(SkipReason reason);

  // The sentence of a run that `count` skipped steps in a row end at `step`, with what to do about
  // them: about one reason where all of them are known to have it, else about both.
  std::string describe_end(int64_t step, int64_t count) const;

 private:
  int64_t not_finite_ = 0;
  int64_t no_target_ = 0;
};

}  // namespace swiattn
