// Attention by our own kernels (listed_kernels.h): deterministic, and far for the rows alone that
// chose full attention or were drawn, but in a forward of both branches.
#pragma once

#include <ATen/core/Tensor.h>

#include "attention/backend.h"

namespace swiattn {

// Whether the kernels cover this problem on the current device: bfloat16, compute capability 8.0
// and up, head widths 64 and 128, at most 2^31 - 129 tokens.
bool listed_attention_covers(const at::Tensor& qkv, const AttentionShape& shape);

// AttentionBackend::backward of all rows with NEAR or FULL; grad_qkv is written.
void listed_backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv,
                     const Attended& final, const DocumentLayout& layout,
                     const AttentionShape& shape, const at::Tensor& grad_qkv);

// Whether the kernel of both branches does, which only one architecture has, of this shape.
bool listed_switch_forward_covers(const AttentionShape& shape);

// AttentionBackend::switch_forward.
SwitchSaved listed_switch_forward(const at::Tensor& qkv, const at::Tensor& route,
                                  const DocumentLayout& layout, const AttentionShape& shape,
                                  DisagreementReduction reduction);

// AttentionBackend::switch_backward.
at::Tensor listed_switch_backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                                  const SwitchSaved& saved, const DocumentLayout& layout,
                                  const AttentionShape& shape, const at::Tensor& grad_qkv);

// AttentionBackend::attend_sampled, given the near result of all rows, which it takes over.
SwitchSaved listed_attend_sampled(const at::Tensor& qkv, Attended near, const at::Tensor& route,
                                  const at::Tensor& both, const DocumentLayout& layout,
                                  const AttentionShape& shape, DisagreementReduction reduction);

// Adds their far keys to the rows that `rows` marks: `attended`, the near result of all rows,
// becomes the full one in these.
void listed_far_forward(const at::Tensor& qkv, const at::Tensor& rows, const DocumentLayout& layout,
                        const AttentionShape& shape, const Attended& attended);

}  // namespace swiattn
