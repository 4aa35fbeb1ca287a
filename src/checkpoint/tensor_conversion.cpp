#include "checkpoint/tensor_conversion.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "checkpoint/parallel_ranges.h"

namespace swiattn {
namespace {

constexpr int64_t kGrain = 1 << 18;  // elements

template <class Element>
void widen_range(const std::byte* bytes, float* out, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    Element element;
    std::memcpy(&element, bytes + static_cast<size_t>(i) * sizeof(Element), sizeof(Element));
    out[i] = static_cast<float>(element);
  }
}

template <class Element>
void narrow_all(std::span<const float> values, std::byte* out) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Element element(values[i]);
    std::memcpy(out + i * sizeof(Element), &element, sizeof(Element));
  }
}

// An exponent of all ones; as whole numbers this loop runs eight elements at a time.
bool all_finite(std::span<const float> values) {
  uint32_t bad = 0;
  for (const float value : values) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    bad |= static_cast<uint32_t>((bits & 0x7f800000U) == 0x7f800000U);
  }
  return bad == 0;
}

}  // namespace

TensorType float_type(const std::string& dtype) {
  if (dtype == "float32") return TensorType::kF32;
  if (dtype == "bfloat16") return TensorType::kBF16;
  if (dtype == "float16") return TensorType::kF16;
  fail(ExitCode::kCheckpoint,
       "'{}' is no type of weights that can be written: use float32, bfloat16 or float16.", dtype);
}

const char* dtype_name(TensorType type) {
  if (type == TensorType::kF32) return "float32";
  if (type == TensorType::kBF16) return "bfloat16";
  SWIATTN_CHECK(type == TensorType::kF16, "{} is no type of weights", to_string(type));
  return "float16";
}

bool is_float_type(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kBF16 || type == TensorType::kF16;
}

void widen(TensorType type, const std::byte* bytes, std::span<float> out) {
  SWIATTN_CHECK(is_float_type(type), "{} is no type of weights", to_string(type));
  parallel_ranges(static_cast<int64_t>(out.size()), kGrain, [&](int64_t begin, int64_t end) {
    if (type == TensorType::kF32) {
      std::memcpy(out.data() + begin, bytes + 4 * begin, static_cast<size_t>(4 * (end - begin)));
    } else if (type == TensorType::kBF16) {
      widen_range<c10::BFloat16>(bytes, out.data(), begin, end);
    } else {
      widen_range<c10::Half>(bytes, out.data(), begin, end);
    }
  });
}

void narrow(TensorType type, std::span<const float> values, std::byte* out) {
  SWIATTN_CHECK(is_float_type(type), "{} is no type of weights", to_string(type));
  if (type == TensorType::kF32) {
    std::memcpy(out, values.data(), values.size_bytes());
  } else if (type == TensorType::kBF16) {
    narrow_all<c10::BFloat16>(values, out);
  } else {
    narrow_all<c10::Half>(values, out);
  }
}

std::optional<int64_t> first_nonfinite(std::span<const float> values) {
  std::atomic<bool> finite = true;
  parallel_ranges(static_cast<int64_t>(values.size()), kGrain, [&](int64_t begin, int64_t end) {
    const auto range = values.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    if (!all_finite(range)) finite = false;
  });
  if (finite) return std::nullopt;
  const auto found =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  return found - values.begin();
}

}  // namespace swiattn
