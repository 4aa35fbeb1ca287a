#include "ops/rotary.h"

#include <ATen/ATen.h>

#include "parallel/accumulation_type.h"

namespace swiattn {

RotaryTable make_rotary_table(const at::Tensor& positions,
                              const std::vector<double>& inverse_frequencies,
                              double attention_factor, at::ScalarType compute_type) {
  // Angles in float64: at position 100,000 a float32 product is off by 0.004 radians.
  const at::Tensor frequencies =
      at::tensor(inverse_frequencies, at::kDouble).to(positions.device());
  const at::Tensor angles = positions.to(at::kDouble).unsqueeze(-1) * frequencies;
  const auto type = accumulation_type(compute_type);
  return {(angles.cos() * attention_factor).to(type), (angles.sin() * attention_factor).to(type)};
}

namespace reference {

void apply_rotary(const at::Tensor& x, const RotaryTable& table, RotaryDirection direction) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor cosine = table.cosine.unsqueeze(1);  // [T, 1, D/2]
  const at::Tensor sine =
      direction == RotaryDirection::kForward ? table.sine.unsqueeze(1) : -table.sine.unsqueeze(1);
  const auto wide = accumulation_type(x.scalar_type());
  at::Tensor low = x.narrow(-1, 0, half);
  at::Tensor high = x.narrow(-1, half, half);
  const at::Tensor a = low.to(wide);
  const at::Tensor b = high.to(wide);
  const at::Tensor rotated_low = a * cosine - b * sine;
  const at::Tensor rotated_high = b * cosine + a * sine;
  low.copy_(rotated_low);
  high.copy_(rotated_high);
}

}  // namespace reference
}  // namespace swiattn
