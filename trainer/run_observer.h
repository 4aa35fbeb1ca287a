// Who watches a run: the training loop reports, observers write files and lines.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/metrics.h"
#include "trainer/routing_csv.h"

namespace swiattn {

// Does nothing: what ranks other than 0 have.
class RunObserver {
 public:
  virtual ~RunObserver() = default;
  // The run is in this phase of this step from now on.
  virtual void enter(int64_t step, std::string_view phase) {}
  virtual void record(const StepMetrics& metrics, const std::vector<RoutingRow>& routing) {}
  virtual void record(const ValidationMetrics& metrics) {}
  virtual void tell(const std::string& sentence) {}
  virtual void warn(const std::string& sentence) {}
  // The run ends with this error, which others print.
  virtual void fail(const std::string& sentence) {}
  // Everything recorded so far survives a power cut.
  virtual void sync() {}
};

}  // namespace swiattn
