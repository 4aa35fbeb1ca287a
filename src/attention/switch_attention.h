// Switch Attention over packed tokens: both branches forward, the branch that each token took
// backward (docs/method.md, sections 1 and 2), whatever backend computes the pieces.
#pragma once

#include <ATen/core/Tensor.h>

#include "attention/backend.h"

namespace swiattn {

// What a layer attends to: everything, the window, or what its router chooses token by token.
enum class LayerAttention { kFull, kWindow, kSwitch };

// All of it is linear in the number of tokens. `route` decides in advance: its gradient comes back
// from the backward as <dL/do, o_full - o_swa>, the straight-through estimator's factor.
SwitchSaved switch_attention_forward(const AttentionBackend& backend, const at::Tensor& qkv,
                                     const at::Tensor& route, const DocumentLayout& layout,
                                     const AttentionShape& shape, DisagreementReduction reduction);

// Returns dL/dgate [T] and writes dL/dqkv to grad_qkv [T, (Hq + 2 Hkv) D], whatever it holds.
// `grad_difference` [T, Hq, D], usually undefined, is a gradient that reaches o_full - o_swa by
// another way (a gamma that is not detached); it makes every token's both branches active.
at::Tensor switch_attention_backward(const AttentionBackend& backend, const at::Tensor& grad_out,
                                     const at::Tensor& grad_difference, const at::Tensor& qkv,
                                     const SwitchSaved& saved, const DocumentLayout& layout,
                                     const AttentionShape& shape, const at::Tensor& grad_qkv);

}  // namespace swiattn
