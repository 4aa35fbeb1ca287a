// How a gradient joins what its buffer holds. Free of LibTorch, for kernels.
#pragma once

namespace swiattn {

// Whether a contribution replaces what the buffer holds (anything, even NaN) or is added to it. The
// first contribution of a step replaces, so that nobody clears gradients and nobody reads zeros.
enum class GradientSum { kWrite, kAdd };

}  // namespace swiattn
