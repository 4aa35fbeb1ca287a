// The backward of Switch Attention over packed tokens, through the branch that each token took
// (docs/method.md, "One layer" and "Near and far"), whatever backend computes the pieces. The
// forward is AttentionBackend::switch_forward().
#pragma once

#include <ATen/core/Tensor.h>

#include "attention/backend.h"

namespace swiattn {

// What a layer attends to: everything, the window, or what its router chooses token by token.
enum class LayerAttention { kFull, kWindow, kSwitch };

// Returns dL/dgate [T], which is <dL/do, o_full - o_swa>, the straight-through estimator's factor,
// and writes dL/dqkv to grad_qkv [T, (Hq + 2 Hkv) D], whatever it holds.
// `grad_difference` [T, Hq, D], usually undefined, is a gradient that reaches o_full - o_swa by
// another way (a gamma that is not detached); it makes every token's both branches active, and
// their log-sum-exps are computed again.
at::Tensor switch_attention_backward(const AttentionBackend& backend, const at::Tensor& grad_out,
                                     const at::Tensor& grad_difference, const at::Tensor& qkv,
                                     const SwitchSaved& saved, const DocumentLayout& layout,
                                     const AttentionShape& shape, const at::Tensor& grad_qkv);

}  // namespace swiattn
