// The launches of attention's memory-bound kernels: what happens to every token between the library
// calls. Plain device pointers in, no LibTorch, so that a kernel's file compiles in seconds.
// Everything is contiguous; arrays of bfloat16 begin at multiples of 16 bytes, and the head width
// is a multiple of 8. `stream` is a cudaStream_t. A failed launch throws std::runtime_error. Sums
// are taken in a fixed order: the same operands give the same bits.
//
// Formulas: docs/method.md, "Near and far"; `AttentionBackend::merge` is the reference.
#pragma once

#include <cstdint>

namespace swiattn::gpu {

using Bf16 = void;  // an array of __nv_bfloat16

// Merges the near and the far branch and chooses, in one pass:
//
//   lse_full   = logaddexp(lse_near, lse_far)
//   difference = exp(lse_far - lse_full) (o_far - o_near)             = o_full - o_near
//   out        = o_near + difference where routed, else o_near
//   logsumexp  = lse_full where routed, else lse_near
//
// Nothing is far of a row whose position is below the window: its far operands are neither read nor
// do they matter, and its difference is exactly 0. The same holds for a row and head whose far
// log-sum-exp is infinite, whatever its sign (libraries mark empty rows with either).
//
// `out` may be `near` itself (then only the routed rows are written), `difference` may be `far` and
// `logsumexp` may be `near_logsumexp`; nothing else may overlap.
struct MergeBranchesArguments {
  const Bf16* near;             // [tokens, heads, head_dim] o_near
  const Bf16* far;              // [tokens, heads, head_dim] o_far
  const float* near_logsumexp;  // [heads, tokens] natural logarithms
  const float* far_logsumexp;   // [heads, tokens]
  const bool* route;            // [tokens] takes full attention
  const int64_t* position;      // [tokens] index in the document
  Bf16* out;                    // [tokens, heads, head_dim] of the branch taken
  Bf16* difference;             // [tokens, heads, head_dim]
  float* logsumexp;             // [heads, tokens] of the branch taken
  float* disagreement;          // [tokens] disagreement_scale * sum of difference^2 before rounding
  int64_t tokens;
  int64_t heads;     // at most 512
  int64_t head_dim;  // a multiple of 8
  int64_t window;
  float disagreement_scale;  // 1 for the sum, 1 / (heads * head_dim) for the mean
};
void merge_branches(const MergeBranchesArguments& arguments, void* stream);

// dL/dgate of every token: <dL/do, o_full - o_near> over heads and head width. Exactly 0, with
// nothing read, where the position is below the window or `both` does not mark the token.
struct GateGradientArguments {
  const Bf16* grad_out;     // [tokens, heads, head_dim]
  const Bf16* difference;   // [tokens, heads, head_dim]
  const int64_t* position;  // [tokens]
  float* gate_gradient;     // [tokens]
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;  // a multiple of 8
  int64_t window;
  const bool* both;  // [tokens] that have a difference; null: all
};
void gate_gradient(const GateGradientArguments& arguments, void* stream);

}  // namespace swiattn::gpu
