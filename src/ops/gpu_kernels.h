// The launches of the fused operations: plain device pointers in, no LibTorch, so that a kernel's
// file compiles in seconds. Matrices are row-major and contiguous, activations bfloat16, statistics
// and accumulators float32. `stream` is a cudaStream_t. A failed launch throws std::runtime_error.
//
// The operations themselves are described in the header of the same name (rms_norm.h …); the files
// *_fused.cpp call these.
#pragma once

#include <cstdint>

namespace swiattn::gpu {

using Bf16 = void;  // an array of __nv_bfloat16

struct RmsNormForwardArguments {
  const Bf16* x;       // [rows, width]
  const Bf16* delta;   // [rows, width] or null
  const Bf16* weight;  // [width]
  Bf16* residual;      // [rows, width]: x + delta; null with a null delta
  Bf16* normed;        // [rows, width]
  float* inverse_rms;  // [rows]
  int64_t rows;
  int64_t width;  // a multiple of 8
  float eps;
};
void rms_norm_forward(const RmsNormForwardArguments& arguments, void* stream);

struct RmsNormBackwardArguments {
  const Bf16* grad_normed;    // [rows, width]
  const Bf16* grad_residual;  // [rows, width] or null
  const Bf16* residual;       // [rows, width]
  const Bf16* weight;         // [width]
  const float* inverse_rms;   // [rows]
  Bf16* grad_x;               // [rows, width]
  float* partial;  // [column_sum_blocks(), width]: sums for the weight's gradient; null if frozen
  float* grad_weight;  // [width], added to; null if frozen
  int64_t rows;
  int64_t width;  // a multiple of 8, at most kMaxColumnSumWidth
};
void rms_norm_backward(const RmsNormBackwardArguments& arguments, void* stream);

// s = <hidden, weight> in float32, and the way back: grad_hidden += ds w, grad_weight += sum ds
// hidden.
void router_forward(const Bf16* hidden, const float* weight, float* logits, int64_t rows,
                    int64_t width, void* stream);
struct RouterBackwardArguments {
  const float* grad_logits;  // [rows]
  const Bf16* hidden;        // [rows, width]
  const float* weight;       // [width]
  Bf16* grad_hidden;         // [rows, width], added to
  float* partial;            // [column_sum_blocks(), width] or null
  float* grad_weight;        // [width] or null
  int64_t rows;
  int64_t width;
};
void router_backward(const RouterBackwardArguments& arguments, void* stream);

// Kernels that sum columns do it in two deterministic steps: every block its rows, then the blocks.
constexpr int64_t kMaxColumnSumWidth = 8192;
int column_sum_blocks();

// What became of a layer's tokens: their part in the router's gradient, and the sums that describe
// them, the layer's row of RoutingStatistics. These are its columns, whose order the row has.
enum RoutingColumn : int {
  kRoutingTokens,
  kRoutingFull,          // tokens that took full attention
  kRoutingFarTokens,     // tokens with more than `window` visible keys
  kRoutingFarFull,       // of these, the full ones
  kRoutingLogit,         // sum of s
  kRoutingLogitSquare,   // sum of s^2
  kRoutingEntropy,       // sum of the binary entropy of sigmoid(s), in nats
  kRoutingDisagreement,  // sum of ||o_full - o_swa||^2
  kRoutingCounted,       // tokens whose target counts
  kRoutingGamma,         // sum of gamma over counted tokens
  kRoutingRegularizer,   // sum of gamma * softplus(s) over counted tokens
  kRoutingVisiblePairs,  // (query, key) pairs of the branches taken
  kRoutingColumns
};

enum class BranchTaken { kRouted, kFull, kWindow };

// regularizer_gamma.h's GammaCoefficients. Without a regularizer `base` is 0.
struct RoutingGamma {
  float base;
  float eps;
  float nll_weight;
  float disagreement_weight;
  bool constant;
};

// Two launches: every token once, then the blocks' sums in a fixed order. Each token's terms are
// float32, the sums float64:
//
//   grad_logits = gate_gradient * p (1 - p) + gamma * sigmoid(s) / layers,   p = sigmoid(s)
//
// the second term for counted tokens only. A layer without a router has no logits: the columns made
// of them stay 0. An evaluation has neither gate_gradient nor grad_logits, and no gamma.
struct RoutingArguments {
  BranchTaken taken;
  const bool* route;           // [tokens] full attention; null unless `taken` is kRouted
  const int64_t* position;     // [tokens] index in the document
  const bool* counted;         // [tokens]
  const float* logits;         // [tokens] s, or null
  const float* disagreement;   // [tokens] or null (taken as 0)
  const float* nll;            // [tokens]; null where gamma is constant or its base 0
  const float* gate_gradient;  // [tokens] dL/dgate, or null (taken as 0)
  float* grad_logits;          // [tokens] or null; needs `logits`
  RoutingGamma gamma;
  int64_t tokens;
  int64_t layers;  // of the model
  int64_t window;
  double* partial;  // [routing_blocks(), kRoutingColumns], scratch
  double* row;      // [kRoutingColumns], overwritten
};
void routing(const RoutingArguments& arguments, void* stream);
int routing_blocks();

// In place on x [tokens, heads, head_dim] whose tokens lie `token_stride` elements apart;
// cosine and sine [tokens, head_dim / 2] float32; `direction` 1 or -1.
void apply_rotary(Bf16* x, const float* cosine, const float* sine, int64_t tokens, int64_t heads,
                  int64_t head_dim, int64_t token_stride, float direction, void* stream);

// gate_up [rows, 2 width] → [rows, width].
void swiglu_forward(const Bf16* gate_up, Bf16* out, int64_t rows, int64_t width, void* stream);
void swiglu_backward(const Bf16* grad, const Bf16* gate_up, Bf16* grad_gate_up, int64_t rows,
                     int64_t width, void* stream);

// logits [rows, vocab] float32 → nll [rows] (0 where the target is negative) and, unless null,
// grad_logits [rows, vocab] = softmax - onehot (0 there too).
void cross_entropy(const float* logits, const int64_t* targets, float* nll, Bf16* grad_logits,
                   int64_t rows, int64_t vocab, void* stream);

}  // namespace swiattn::gpu
