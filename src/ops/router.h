// The router's arithmetic: the logit of every token and the way its gradient goes back.
//
//   s_t = <h_t, w>             in float32, of the compute-type h with the float32 w, everywhere
//   ds_t → dw += sum_t ds_t h_t,   dh_t += ds_t w
#pragma once

#include <ATen/core/Tensor.h>

namespace swiattn {

using RouterForward = at::Tensor(const at::Tensor& hidden,   // [T, d]
                                 const at::Tensor& weight);  // [d] float32 → [T] float32

// `grad_hidden` [T, d] is added to in place; grad_weight [d] float32 too, unless undefined.
using RouterBackward = void(const at::Tensor& grad_logits,  // [T] float32
                            const at::Tensor& hidden, const at::Tensor& weight,
                            const at::Tensor& grad_hidden, const at::Tensor& grad_weight);

namespace reference {
RouterForward router_forward;
RouterBackward router_backward;
}  // namespace reference

}  // namespace swiattn
