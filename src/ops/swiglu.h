// SwiGLU: silu(gate) * up, on the packed projection [gate | up].
#pragma once

#include <ATen/core/Tensor.h>

namespace swiattn {

using SwigluForward = at::Tensor(const at::Tensor& gate_up);  // [T, 2F] → [T, F]

// Returns dL/d[gate | up] [T, 2F], recomputing what it needs from the packed projection.
using SwigluBackward = at::Tensor(const at::Tensor& grad,      // [T, F]
                                  const at::Tensor& gate_up);  // [T, 2F] saved

namespace reference {
SwigluForward swiglu_forward;
SwigluBackward swiglu_backward;
}  // namespace reference

}  // namespace swiattn
