#include "optim/gradient_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

namespace swiattn {
namespace {

// Sums of pieces of this many elements are added in order, so that the result does not depend on
// how the pieces were spread over threads.
constexpr int64_t kPiece = 1 << 16;

template <class Float>
double square_sum_on_host(const at::Tensor& flat) {
  const Float* values = flat.const_data_ptr<Float>();
  const int64_t count = flat.numel();
  std::vector<double> partial(static_cast<size_t>((count + kPiece - 1) / kPiece));
  at::parallel_for(0, static_cast<int64_t>(partial.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t last = std::min(count, (piece + 1) * kPiece);
      double sum = 0.0;
      for (int64_t i = piece * kPiece; i < last; ++i) {
        sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
      }
      partial[static_cast<size_t>(piece)] = sum;
    }
  });
  double total = 0.0;
  for (const double sum : partial) total += sum;
  return total;
}

at::Tensor square_sum(const at::Tensor& flat) {
  if (!flat.device().is_cpu()) {
    return at::linalg_vector_norm(flat, 2, std::nullopt, false, at::kDouble).square();
  }
  const double sum = flat.scalar_type() == at::kDouble ? square_sum_on_host<double>(flat)
                                                       : square_sum_on_host<float>(flat);
  return at::scalar_tensor(sum, at::kDouble);
}

}  // namespace

at::Tensor gradient_square_sum(const FlatParameters& parameters) {
  at::Tensor total =
      at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(parameters.device()));
  for (const FlatUnit& unit : parameters.units()) {
    if (unit.trainable_numel > 0) total.add_(square_sum(unit.gradient));
  }
  return total;
}

}  // namespace swiattn
