// The type in which sums, norms and exponentials are taken.
#pragma once

#include <c10/core/ScalarType.h>

namespace swiattn {

// float64 stays float64 (the tests' judge); everything else accumulates in float32.
inline c10::ScalarType accumulation_type(c10::ScalarType type) {
  return type == c10::ScalarType::Double ? c10::ScalarType::Double : c10::ScalarType::Float;
}

}  // namespace swiattn
