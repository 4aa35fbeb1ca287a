// The head widths that our own kernels are compiled for, and the choice among them on the host.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <type_traits>

namespace swiattn::gpu {

// Calls launch(integral constant of the head width). Throws std::runtime_error for one without
// kernels.
template <class Launch>
void with_head_dim(int64_t head_dim, const Launch& launch) {
  if (head_dim == 64) return launch(std::integral_constant<int, 64>());
  if (head_dim == 128) return launch(std::integral_constant<int, 128>());
  throw std::runtime_error("The kernels of listed rows have head widths 64 and 128.");
}

}  // namespace swiattn::gpu
