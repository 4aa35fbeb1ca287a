// Where an operation puts a gradient: of a weight, into a part of the flat gradient buffer; of
// queries, keys and values, into a part of the packed one.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/gradient_sum.h"

namespace swiattn {

struct GradientTarget {
  at::Tensor tensor;  // of a weight in the accumulation type; undefined where that is frozen
  GradientSum sum = GradientSum::kAdd;

  bool defined() const { return tensor.defined(); }
  // A contribution that is there as a tensor, of any floating-point type.
  void put(const at::Tensor& contribution) const {
    if (sum == GradientSum::kWrite) {
      tensor.copy_(contribution);
    } else {
      tensor.add_(contribution);
    }
  }
};

}  // namespace swiattn
