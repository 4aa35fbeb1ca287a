#include "trainer/skipped_steps.h"

#include <fmt/format.h>

namespace swiattn {

void SkippedSteps::add(SkipReason reason) {
  ++(reason == SkipReason::kNotFinite ? not_finite_ : no_target_);
}

std::string SkippedSteps::describe_end(int64_t step, int64_t count) const {
  const std::string for_numbers =
      "lower the learning rate, look at the data of these steps, or resume from an earlier "
      "checkpoint";
  const std::string for_documents =
      "train on longer documents, or set attention.mask_documents to false";
  std::string advice;
  if (not_finite_ == count) {
    advice = for_numbers;
  } else if (no_target_ == count) {
    advice = for_documents;
  } else {
    advice = fmt::format("where they were not finite, {}; where no token had a target, {}",
                         for_numbers, for_documents);
  }
  const char* what = not_finite_ == count ? "not finite" : "skipped";
  const std::string which =
      count == 1 ? fmt::format("Step {} was {}", step, what)
                 : fmt::format("Step {}: {} steps in a row were {}", step, count, what);
  return fmt::format("{}. The weights are those of step {}; {}.", which, step - count, advice);
}

}  // namespace swiattn
