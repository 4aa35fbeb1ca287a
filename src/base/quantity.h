// Sizes and durations as people write them: 4K, 20B, 1e6, 300s, 10%.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace swiattn {

// What K, M, B and T multiply by: powers of 1000 count steps and tokens; powers of 1024 are
// sequence lengths, windows and memory.
enum class QuantityBase { kThousand, kBinary };

// "4K", "20B", "1.5M", "1e6", "4096" → an exact whole number >= 0. Throws Error{kConfiguration}
// beginning with `name` when the text is no such number, not whole, or above 2^53.
int64_t parse_quantity(std::string_view text, QuantityBase base, std::string_view name);

// "300s", "5m", "2h", "300" → seconds.
double parse_duration(std::string_view text, std::string_view name);

// 4096 → "4K" (kBinary), 20000000000 → "20B" (kThousand); a number that no unit divides stays
// plain.
std::string format_quantity(int64_t value, QuantityBase base);

}  // namespace swiattn
