// The least that a configuration must say, and that with more said on the command line.
#pragma once

#include <string>
#include <vector>

#include "trainer/run_config.h"

namespace swiattn {

inline constexpr const char* kLeast = R"(
run: {folder: runs/x}
model: {init_from: models/base}
data: {sources: [{path: tokens}]}
train: {steps: 1000}
)";

inline RunConfig with(const std::vector<std::string>& overrides) {
  return parse_run_config(kLeast, "run.yaml", overrides);
}

}  // namespace swiattn
