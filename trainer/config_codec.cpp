#include "trainer/config_codec.h"

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace swiattn {
namespace {

constexpr double kLargestNumber = 1e15;   // products of two are still far inside float32
constexpr double kLongestDuration = 1e8;  // seconds: three years

// What parse_quantity() and its kin call the value in their sentences.
std::string name_of(const YamlNode& node, const std::string& key) {
  return node.place + ": " + key;
}

// Removes `ending` from `text`, with the blanks before it.
bool take_ending(std::string_view& text, std::string_view ending) {
  if (!text.ends_with(ending)) return false;
  text.remove_suffix(ending.size());
  while (text.ends_with(' ')) text.remove_suffix(1);
  return true;
}

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end || !std::isfinite(value)) return std::nullopt;
  return value;
}

}  // namespace

void refuse_value(const YamlNode& node, const std::string& key, const std::string& expected) {
  fail(ExitCode::kConfiguration, "{}: {}: expected {}, found {}.", node.place, key, expected,
       node.describe());
}

const std::string& scalar_text(const YamlNode& node, const std::string& key,
                               const std::string& expected) {
  if (node.kind != YamlNode::Kind::kScalar) refuse_value(node, key, expected);
  return node.text;
}

bool Interval::contains(double value) const {
  return (without_low ? value > low : value >= low) &&
         (without_high ? value < high : value <= high);
}

std::string Interval::description() const {
  std::string text;
  if (std::isfinite(low)) text += fmt::format(" {} {}", without_low ? ">" : ">=", low);
  if (std::isfinite(low) && std::isfinite(high)) text += " and";
  if (std::isfinite(high)) text += fmt::format(" {} {}", without_high ? "<" : "<=", high);
  return text;
}

Codec<bool> boolean() {
  Codec<bool> codec;
  codec.values = "true or false";
  codec.read = [expected = codec.values](const YamlNode& node, const std::string& key) {
    const std::string& found = scalar_text(node, key, expected);
    if (found != "true" && found != "false") refuse_value(node, key, expected);
    return found == "true";
  };
  codec.write = [](const bool& value) { return value ? "true" : "false"; };
  return codec;
}

Codec<double> number(Interval interval) {
  Codec<double> codec;
  codec.values = "a number" + interval.description();
  codec.read = [=, expected = codec.values](const YamlNode& node, const std::string& key) {
    const auto value = parse_number(scalar_text(node, key, expected));
    if (!value || !interval.contains(*value)) refuse_value(node, key, expected);
    if (std::abs(*value) > kLargestNumber) {
      refuse_value(node, key, fmt::format("{}, at most {:g}", expected, kLargestNumber));
    }
    return *value;
  };
  codec.write = [](const double& value) { return fmt::format("{}", value); };
  return codec;
}

Codec<std::string> text() {
  Codec<std::string> codec;
  codec.values = "a text";
  codec.read = [expected = codec.values](const YamlNode& node, const std::string& key) {
    const std::string& found = scalar_text(node, key, expected);
    if (found.empty()) refuse_value(node, key, expected);
    return found;
  };
  codec.write = [](const std::string& value) { return quote_yaml(value); };
  return codec;
}

Codec<int64_t> whole(int64_t low, QuantityBase base, int64_t high) {
  Codec<int64_t> codec;
  codec.values = fmt::format("a whole number >= {}{}", low,
                             base == QuantityBase::kBinary ? " (4K is 4096)" : "");
  codec.read = [=, expected = codec.values](const YamlNode& node, const std::string& key) {
    const std::string& found = scalar_text(node, key, expected);
    const int64_t value = parse_quantity(found, base, name_of(node, key));
    if (value < low) refuse_value(node, key, expected);
    if (value > high) refuse_value(node, key, fmt::format("{}, at most {}", expected, high));
    return value;
  };
  codec.write = [](const int64_t& value) { return fmt::format("{}", value); };
  return codec;
}

Codec<double> duration() {
  Codec<double> codec;
  codec.values = "a duration such as 300s, 5m or 2h";
  codec.read = [expected = codec.values](const YamlNode& node, const std::string& key) {
    const double seconds = parse_duration(scalar_text(node, key, expected), name_of(node, key));
    if (seconds <= 0) refuse_value(node, key, expected + ", above 0");
    if (seconds > kLongestDuration) {
      refuse_value(node, key, fmt::format("{}, at most {:.0f}s", expected, kLongestDuration));
    }
    return seconds;
  };
  codec.write = [](const double& seconds) { return fmt::format("{}s", seconds); };
  return codec;
}

Codec<Span> span(bool percent_allowed) {
  Codec<Span> codec;
  codec.values = percent_allowed ? "steps (500), tokens (2B tokens) or a share of the run (10%)"
                                 : "steps (500) or tokens (2B tokens)";
  codec.read = [=, expected = codec.values](const YamlNode& node, const std::string& key) -> Span {
    std::string_view found = scalar_text(node, key, expected);
    if (percent_allowed && take_ending(found, "%")) {
      const auto percent = parse_number(found);
      if (!percent || *percent < 0 || *percent > 100) refuse_value(node, key, expected);
      return {Span::Unit::kPercent, *percent};
    }
    const bool tokens = take_ending(found, "tokens");
    if (!tokens) take_ending(found, "steps");
    if (found.find_first_of(" %") != std::string_view::npos) refuse_value(node, key, expected);
    const int64_t amount = parse_quantity(found, QuantityBase::kThousand, name_of(node, key));
    return {tokens ? Span::Unit::kTokens : Span::Unit::kSteps, static_cast<double>(amount)};
  };
  codec.write = [](const Span& span) {
    switch (span.unit) {
      case Span::Unit::kTokens:
        return fmt::format("{:.0f} tokens", span.amount);
      case Span::Unit::kPercent:
        return fmt::format("{}%", span.amount);
      case Span::Unit::kSteps:
        break;
    }
    return fmt::format("{:.0f}", span.amount);
  };
  return codec;
}

}  // namespace swiattn
