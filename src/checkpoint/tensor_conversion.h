// Between the element types of model files and the float32 of the master weights. Widening is
// exact; narrowing rounds to nearest, ties to even, so that what was widened comes back bit for
// bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "checkpoint/safetensors.h"

namespace swiattn {

// "float32" → F32, "bfloat16" → BF16, "float16" → F16. Throws Error{kCheckpoint} for another name.
TensorType float_type(const std::string& dtype);
const char* dtype_name(TensorType type);  // the reverse
bool is_float_type(TensorType type);      // one of the three

// Widens out.size() elements of one of the three types; `bytes` need not be aligned. Uses all
// cores.
void widen(TensorType type, const std::byte* bytes, std::span<float> out);

// Rounds values to `type` into `out`, byte_size(type) * values.size() bytes. One thread.
void narrow(TensorType type, std::span<const float> values, std::byte* out);

// The index of the first NaN or infinity. Uses all cores.
std::optional<int64_t> first_nonfinite(std::span<const float> values);

}  // namespace swiattn
