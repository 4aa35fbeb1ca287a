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

double square_sum_on_host(const std::vector<at::Tensor>& gradients) {
  double total = 0.0;
  for (const at::Tensor& flat : gradients) {
    total += flat.scalar_type() == at::kDouble ? square_sum_on_host<double>(flat)
                                               : square_sum_on_host<float>(flat);
  }
  return total;
}

}  // namespace

at::Tensor gradient_square_sum(const FlatParameters& parameters) {
  std::vector<at::Tensor> gradients;
  for (const FlatUnit& unit : parameters.units()) {
    if (unit.trainable_numel > 0) gradients.push_back(unit.gradient);
  }
  const auto options = at::TensorOptions().dtype(at::kDouble).device(parameters.device());
  if (gradients.empty()) return at::zeros({}, options);
  if (parameters.device().is_cpu()) return at::full({}, square_sum_on_host(gradients), options);
  // One pass, in float64 and in one order; linalg_vector_norm would first write a float64 copy.
  return at::stack(at::_foreach_norm(gradients, 2, at::kDouble)).square().sum();
}

}  // namespace swiattn
