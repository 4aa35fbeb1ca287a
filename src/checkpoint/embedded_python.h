// The Python files that a hybrid export carries, so that transformers can load it:
// src/checkpoint/hf/, built into the programs.
#pragma once

#include <string_view>

namespace swiattn {

extern const std::string_view kConfigurationPython;  // configuration_swiattn.py
extern const std::string_view kModelingPython;       // modeling_swiattn.py

}  // namespace swiattn
