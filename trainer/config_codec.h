// How a value of the configuration is read from YAML, written to it, and described to people.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/quantity.h"
#include "base/text.h"
#include "base/yaml.h"
#include "trainer/run_config.h"

namespace swiattn {

template <class T>
struct Codec {
  // What may stand there, to follow "expected": "a whole number >= 1".
  std::string values;
  bool is_map = false;  // with keys of its own
  // Throws Error{kConfiguration} with the value's place and `key` for anything else.
  std::function<T(const YamlNode& node, const std::string& key)> read;
  // On one line, so that read() gives an equal value.
  std::function<std::string(const T& value)> write;
};

// "run.yaml:3: attention.window: expected a whole number, found "x"."
[[noreturn]] void refuse_value(const YamlNode& node, const std::string& key,
                               const std::string& expected);

// The text of a scalar; anything else is refused.
const std::string& scalar_text(const YamlNode& node, const std::string& key,
                               const std::string& expected);

// The numbers that are allowed.
struct Interval {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool without_low = false;
  bool without_high = false;

  bool contains(double value) const;
  std::string description() const;  // " > 0 and <= 1"
};
inline constexpr Interval kPositive = {.low = 0, .without_low = true};
inline constexpr Interval kNotNegative = {.low = 0};
// What is divided by in float32, whose smallest normal number this is: less may become 0 there.
inline constexpr Interval kDivisor = {.low = 1.2e-38};
inline constexpr Interval kShare = {.low = 0, .high = 1};

Codec<bool> boolean();
Codec<double> number(Interval interval);
Codec<std::string> text();  // not empty

// K, M, B and T are powers of 1000 or 1024. Lengths, batches, steps and ids end at kLargestWhole:
// the product of two fits into an int64_t, an id into an int32_t.
inline constexpr int64_t kLargestWhole = (1LL << 31) - 1;
inline constexpr int64_t kLargestQuantity = 1LL << 53;  // what parse_quantity() reads
Codec<int64_t> whole(int64_t low, QuantityBase base = QuantityBase::kThousand,
                     int64_t high = kLargestWhole);

// In seconds, above 0 and at most 1e8: clocks count nanoseconds in 64 bits.
Codec<double> duration();
Codec<Span> span(bool percent_allowed);

// One of several words.
template <class T>
Codec<T> choice(std::vector<std::pair<T, std::string>> words) {
  Codec<T> codec;
  std::vector<std::string> names;
  for (const auto& [value, name] : words) names.push_back(name);
  codec.values = fmt::format("one of {}", fmt::join(names, ", "));
  codec.read = [=, expected = codec.values](const YamlNode& node, const std::string& key) {
    const std::string& found = scalar_text(node, key, expected);
    for (const auto& [value, name] : words) {
      if (name == found) return value;
    }
    const std::string meant = nearest(found, names);
    refuse_value(node, key,
                 meant.empty() ? expected : fmt::format("{} (did you mean {}?)", expected, meant));
  };
  codec.write = [=](const T& value) {
    for (const auto& [candidate, name] : words) {
      if (candidate == value) return name;
    }
    return std::string();
  };
  return codec;
}

template <class T>
Codec<std::optional<T>> nullable(Codec<T> inner) {
  Codec<std::optional<T>> codec;
  codec.values = inner.values + ", or null";
  codec.is_map = inner.is_map;
  codec.read = [=](const YamlNode& node, const std::string& key) -> std::optional<T> {
    if (node.kind == YamlNode::Kind::kNull) return std::nullopt;
    return inner.read(node, key);
  };
  codec.write = [=](const std::optional<T>& value) { return value ? inner.write(*value) : "null"; };
  return codec;
}

template <class T>
Codec<std::vector<T>> list_of(Codec<T> element) {
  Codec<std::vector<T>> codec;
  codec.values = "a list, each element " + element.values;
  codec.read = [=, expected = codec.values](const YamlNode& node, const std::string& key) {
    if (node.kind != YamlNode::Kind::kList) refuse_value(node, key, expected);
    std::vector<T> values;
    for (const YamlNode& item : node.items) {
      values.push_back(element.read(item, fmt::format("{}[{}]", key, values.size())));
    }
    return values;
  };
  codec.write = [=](const std::vector<T>& values) {
    std::vector<std::string> texts;
    for (const T& value : values) texts.push_back(element.write(value));
    return fmt::format("[{}]", fmt::join(texts, ", "));
  };
  return codec;
}

template <class T>
Codec<std::array<T, 2>> pair_of(Codec<T> element) {
  const Codec<std::vector<T>> list = list_of(element);
  Codec<std::array<T, 2>> codec;
  codec.values = "a list of two, each " + element.values;
  codec.read = [=, expected = codec.values](const YamlNode& node, const std::string& key) {
    const std::vector<T> values = list.read(node, key);
    if (values.size() != 2) refuse_value(node, key, expected);
    return std::array<T, 2>{values[0], values[1]};
  };
  codec.write = [=](const std::array<T, 2>& pair) { return list.write({pair[0], pair[1]}); };
  return codec;
}

}  // namespace swiattn
