// The loss on a validation set, over all ranks.
#pragma once

#include <functional>
#include <optional>

#include "model/causal_lm.h"
#include "parallel/communicator.h"
#include "parallel/watchdog.h"
#include "trainer/data_setup.h"

namespace swiattn {

struct ValidationResult {
  double nll = 0.0;  // mean over counted targets; NaN without one
  double full_ratio = 0.0;
  int64_t targets = 0;  // counted
};

// Collective. Each rank takes its share of every global batch. The watchdog watches the wait for
// the other ranks. `goes_on` is asked before every global batch, and where it says no there is no
// result; all ranks have to get the same answer.
std::optional<ValidationResult> validate_model(const CausalLm& model, NamedStream& set,
                                               Communicator& communicator, Watchdog& watchdog,
                                               const std::function<bool()>& goes_on);

}  // namespace swiattn
