#include "model/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace swiattn {
namespace {

// base^(2i/D), rounded to float32 where transformers rounds.
std::vector<float> position_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies;
  for (int64_t channel = 0; channel < config.head_dim; channel += 2) {
    const float exponent = static_cast<float>(channel) / static_cast<float>(config.head_dim);
    const auto base = static_cast<double>(static_cast<float>(config.rope_theta));
    frequencies.push_back(static_cast<float>(std::pow(base, static_cast<double>(exponent))));
  }
  return frequencies;
}

// Wavelengths longer than the original context are stretched, short ones are kept, and those
// between are blended ("Llama 3.1").
float llama3_frequency(float inverse, const RopeScaling& scaling) {
  const auto factor = static_cast<float>(scaling.factor);
  const auto low = static_cast<float>(scaling.low_frequency_factor);
  const auto length = static_cast<double>(scaling.original_length);
  const float wavelength = static_cast<float>(2.0 * std::numbers::pi) / inverse;
  if (wavelength > static_cast<float>(length / scaling.low_frequency_factor)) {
    return inverse / factor;
  }
  if (wavelength < static_cast<float>(length / scaling.high_frequency_factor)) return inverse;
  const float smooth =
      (static_cast<float>(length) / wavelength - low) /
      static_cast<float>(scaling.high_frequency_factor - scaling.low_frequency_factor);
  return (1.0F - smooth) * inverse / factor + smooth * inverse;
}

// The channel pair that turns `rotations` times within the original context.
double correction_channel(double rotations, const ModelConfig& config) {
  const auto width = static_cast<double>(config.head_dim);
  const auto length = static_cast<double>(config.rope_scaling.original_length);
  return width * std::log(length / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(config.rope_theta));
}

double yarn_magnitude(double factor, double scale) {
  return factor <= 1.0 ? 1.0 : 0.1 * scale * std::log(factor) + 1.0;
}

double yarn_attention_factor(const RopeScaling& scaling) {
  if (scaling.attention_factor) return *scaling.attention_factor;
  const double mscale = scaling.mscale.value_or(0.0);
  const double mscale_all_dim = scaling.mscale_all_dim.value_or(0.0);
  if (mscale != 0.0 && mscale_all_dim != 0.0) {
    return yarn_magnitude(scaling.factor, mscale) / yarn_magnitude(scaling.factor, mscale_all_dim);
  }
  return yarn_magnitude(scaling.factor, 1.0);
}

// From extrapolation (fast channels, kept) to interpolation (slow channels, divided by the factor).
void apply_yarn(const ModelConfig& config, const std::vector<float>& frequencies,
                RotaryFrequencies& result) {
  const RopeScaling& scaling = config.rope_scaling;
  double low = correction_channel(scaling.beta_fast, config);
  double high = correction_channel(scaling.beta_slow, config);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.head_dim - 1));
  if (low == high) high += 0.001;  // as in transformers: no division by zero
  for (size_t pair = 0; pair < frequencies.size(); ++pair) {
    const float ramp = std::clamp(
        (static_cast<float>(pair) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F,
        1.0F);
    const float kept = 1.0F - ramp;
    const float interpolated = 1.0F / (static_cast<float>(scaling.factor) * frequencies[pair]);
    const float extrapolated = 1.0F / frequencies[pair];
    result.inverse.push_back(interpolated * (1.0F - kept) + extrapolated * kept);
  }
  result.attention_factor = yarn_attention_factor(scaling);
}

}  // namespace

RotaryFrequencies rotary_frequencies(const ModelConfig& config) {
  const std::vector<float> frequencies = position_frequencies(config);
  const RopeScaling& scaling = config.rope_scaling;
  RotaryFrequencies result;
  if (scaling.kind == RopeScaling::Kind::kYarn) {
    apply_yarn(config, frequencies, result);
    return result;
  }
  for (const float frequency : frequencies) {
    float inverse = 1.0F / frequency;
    if (scaling.kind == RopeScaling::Kind::kLinear) inverse /= static_cast<float>(scaling.factor);
    if (scaling.kind == RopeScaling::Kind::kLlama3) inverse = llama3_frequency(inverse, scaling);
    result.inverse.push_back(inverse);
  }
  return result;
}

}  // namespace swiattn
