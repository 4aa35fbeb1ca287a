// The L2 norm of all gradients together, over flat buffers.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/flat_parameters.h"

namespace swiattn {

// Sum of squares of every trainable gradient, a float64 scalar on the parameters' device; not
// finite when any gradient is not. The same bits whatever the number of threads.
at::Tensor gradient_square_sum(const FlatParameters& parameters);

}  // namespace swiattn
