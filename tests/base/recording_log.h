// A log that keeps its warnings and errors.
#pragma once

#include <string>
#include <vector>

#include "base/log.h"

namespace swiattn {

class RecordingLog : public Log {
 public:
  void write(LogLevel level, const std::string& message) override {
    if (level >= LogLevel::kWarning) warnings += message + "\n";
  }
  std::string warnings;
};

}  // namespace swiattn
