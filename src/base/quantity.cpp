#include "base/quantity.h"

#include <charconv>
#include <system_error>

#include "base/error.h"

namespace swiattn {
namespace {

constexpr int64_t kLargest = 1LL << 53;  // what a double, and so every JSON reader, holds exactly
constexpr std::string_view kUnits = "KMBT";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Removes and returns the digits at the start of `text`.
std::string_view take_digits(std::string_view& text) {
  size_t count = 0;
  while (count < text.size() && is_digit(text[count])) ++count;
  const std::string_view digits = text.substr(0, count);
  text.remove_prefix(count);
  return digits;
}

// digits * 10^exponent, as written: 1.25e6 is 125 * 10^4.
struct Decimal {
  std::string digits;
  int exponent = 0;
};

// Reads the decimal number at the start of `text` and removes it. False: there is none.
bool take_decimal(std::string_view& text, Decimal& decimal) {
  const std::string_view whole = take_digits(text);
  if (whole.empty() || (whole.size() > 1 && whole[0] == '0')) return false;  // 010: octal, or not?
  decimal.digits = whole;
  if (!text.empty() && text[0] == '.') {
    text.remove_prefix(1);
    const std::string_view fraction = take_digits(text);
    if (fraction.empty()) return false;
    decimal.digits += fraction;
    decimal.exponent -= static_cast<int>(fraction.size());
  }
  if (!text.empty() && (text[0] == 'e' || text[0] == 'E')) {
    text.remove_prefix(1);
    const bool negative = !text.empty() && text[0] == '-';
    if (negative || (!text.empty() && text[0] == '+')) text.remove_prefix(1);
    const std::string_view power = take_digits(text);
    if (power.empty() || power.size() > 3) return false;
    int value = 0;
    for (char digit : power) value = 10 * value + (digit - '0');
    decimal.exponent += negative ? -value : value;
  }
  return true;
}

int64_t unit_size(size_t unit, QuantityBase base) {
  const int64_t step = base == QuantityBase::kThousand ? 1000 : 1024;
  int64_t size = step;
  for (size_t i = 0; i < unit; ++i) size *= step;
  return size;
}

// Either a value or why there is none.
struct Exact {
  int64_t value = 0;
  const char* why_not = nullptr;
};

// digits * 10^tens * 2^twos, without ever rounding.
Exact multiply(std::string digits, int tens, int twos) {
  for (; digits.size() > 1 && digits.back() == '0'; ++tens) digits.pop_back();
  int64_t value = 0;
  for (char digit : digits) {
    value = 10 * value + (digit - '0');
    if (value > 100 * kLargest) return {0, " (too many digits)"};
  }
  if (value == 0) return {};
  for (; tens < 0; ++tens, --twos) {
    if (value % 5 != 0) return {0, " (not whole)"};
    value /= 5;
  }
  for (; twos < 0; ++twos) {
    if (value % 2 != 0) return {0, " (not whole)"};
    value /= 2;
  }
  for (; tens > 0 && value <= kLargest; --tens) value *= 10;
  for (; twos > 0 && value <= kLargest; --twos) value *= 2;
  if (value > kLargest) return {0, " (above 2^53)"};
  return {value};
}

}  // namespace

int64_t parse_quantity(std::string_view text, QuantityBase base, std::string_view name) {
  const auto refuse = [&](std::string_view why) {
    fail(ExitCode::kConfiguration,
         "{}: expected a whole number such as 4096, 4K, 20B or 1e6, found \"{}\"{}.", name, text,
         why);
  };
  std::string_view rest = text;
  Decimal decimal;
  if (!take_decimal(rest, decimal)) refuse("");
  int tens = decimal.exponent;
  int twos = 0;
  if (!rest.empty()) {
    const size_t unit = kUnits.find(rest[0]);
    if (rest.size() > 1 || unit == std::string_view::npos) refuse(" (the units are K, M, B and T)");
    const int power = static_cast<int>(unit) + 1;
    if (base == QuantityBase::kThousand) tens += 3 * power;
    if (base == QuantityBase::kBinary) twos += 10 * power;
  }
  const Exact exact = multiply(decimal.digits, tens, twos);
  if (exact.why_not != nullptr) refuse(exact.why_not);
  return exact.value;
}

double parse_duration(std::string_view text, std::string_view name) {
  std::string_view rest = text;
  Decimal decimal;
  double seconds = 0;
  bool good = take_decimal(rest, decimal);
  if (good) {
    const std::string_view number = text.substr(0, text.size() - rest.size());
    good = std::from_chars(number.data(), number.data() + number.size(), seconds).ec == std::errc();
    if (rest == "m") seconds *= 60;
    if (rest == "h") seconds *= 3600;
    good = good && (rest.empty() || rest == "s" || rest == "m" || rest == "h");
  }
  if (!good) {
    fail(ExitCode::kConfiguration, "{}: expected a duration such as 300s, 5m or 2h, found \"{}\".",
         name, text);
  }
  return seconds;
}

std::string format_quantity(int64_t value, QuantityBase base) {
  for (size_t unit = kUnits.size(); unit-- > 0;) {
    const int64_t size = unit_size(unit, base);
    if (value != 0 && value % size == 0) return fmt::format("{}{}", value / size, kUnits[unit]);
  }
  return fmt::format("{}", value);
}

}  // namespace swiattn
