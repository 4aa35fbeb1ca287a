// SwiGLU: silu(gate) * up, on the packed projection [gate | up].
#pragma once

#include <ATen/core/Tensor.h>

namespace swiattn {

using SwigluForward = at::Tensor(const at::Tensor& gate_up);  // [T, 2F] → [T, F]

struct SwigluGradients {
  at::Tensor gate_up;    // dL/d[gate | up] [T, 2F]
  at::Tensor activated;  // the forward's result once more [T, F], the same bits
};

// Recomputes the forward from the packed projection: the gradient needs most of it, and the weight
// behind it needs the rest. Takes both buffers over: the results may lie in them, since nothing of
// a layer is as large.
using SwigluBackward = SwigluGradients(const at::Tensor& grad,      // [T, F]
                                       const at::Tensor& gate_up);  // [T, 2F] saved

namespace reference {
SwigluForward swiglu_forward;
SwigluBackward swiglu_backward;
}  // namespace reference

}  // namespace swiattn
