// The launches of the fused operations: plain device pointers in, no LibTorch, so that a kernel's
// file compiles in seconds. Matrices are row-major and contiguous, activations bfloat16, statistics
// and accumulators float32. `stream` is a cudaStream_t. A failed launch throws std::runtime_error.
//
// The operations themselves are described in the header of the same name (rms_norm.h …); the
// *fused*.cpp files call these.
#pragma once

#include <cstdint>

#include "ops/routing_columns.h"
#include "ops/token_draws.h"
#include "parallel/gradient_sum.h"

namespace swiattn::gpu {

using Bf16 = void;  // an array of __nv_bfloat16

// A sum over rows, column by column, in two deterministic steps: every block its rows, then the
// blocks. Without `total` nobody wants it.
struct ColumnSum {
  float* partial;   // […_norm_backward_blocks(), width], scratch
  float* total;     // [width] or null
  GradientSum sum;  // whether it replaces the total or is added to it
};

// embedding.h's backward: adds the sum over an id's tokens to its row of the table.
constexpr int64_t kEmbeddingPart = 64;  // of the sorted tokens
constexpr int64_t embedding_parts(int64_t tokens) {
  return (tokens + kEmbeddingPart - 1) / kEmbeddingPart;
}
struct EmbeddingBackwardArguments {
  const Bf16* grad;      // [tokens, width]
  const int64_t* ids;    // [tokens] sorted
  const int64_t* order;  // [tokens] which token each is
  float* partial;        // [embedding_parts(tokens), 2, width], scratch
  float* table;          // [vocabulary, width]
  int64_t tokens;        // at least 1
  int64_t width;         // a multiple of 8
};
void embedding_backward(const EmbeddingBackwardArguments& arguments, void* stream);

// The norm, and the router behind it where `router_weight` is not null.
struct RmsNormForwardArguments {
  const Bf16* x;               // [rows, width]
  const Bf16* weight;          // [width]
  const float* router_weight;  // [width] or null
  Bf16* normed;                // [rows, width]
  float* inverse_rms;          // [rows]
  float* logits;               // [rows]; null without router
  int64_t rows;
  int64_t width;  // a multiple of 8, at most kMaxRmsNormWidth
  float eps;
};
void rms_norm_forward(const RmsNormForwardArguments& arguments, void* stream);

struct RmsNormBackwardArguments {
  const Bf16* grad_normed;     // [rows, width], by other ways than the router
  const Bf16* grad_residual;   // [rows, width] or null
  const Bf16* x;               // [rows, width]
  const Bf16* weight;          // [width]
  const float* inverse_rms;    // [rows]
  const float* grad_logits;    // [rows]; null without router
  const float* router_weight;  // [width]; null without router
  Bf16* grad_x;                // [rows, width]
  ColumnSum grad_weight;
  ColumnSum grad_router;
  int64_t rows;   // at least 1
  int64_t width;  // a multiple of 8, at most kMaxRmsNormWidth
};
// With rms_norm_backward_blocks() blocks, for which the column sums have scratch.
void rms_norm_backward(const RmsNormBackwardArguments& arguments, int64_t blocks, void* stream);
int64_t rms_norm_backward_blocks(int64_t rows, int64_t width, bool with_router);

constexpr int64_t kMaxRmsNormWidth = 8192;

// drawn_rows.h, one launch each.
struct DrawArguments {
  uint64_t seed;
  int64_t layer;
  const int64_t* samples;  // [tokens / sequence_length]
  int64_t sequence_length;
  int64_t tokens;
};
void draw_rows(const DrawArguments& arguments, double probability, bool* drawn, void* stream);

struct SampleRowsArguments {
  DrawArguments draw;
  FarSampling sampling;
  const float* logits;      // [tokens] or null
  double ratio;             // without logits
  const bool* route;        // [tokens]
  const int64_t* position;  // [tokens]
  int64_t window;
  bool* both;     // [tokens]
  float* weight;  // [tokens]
};
void sample_rows(const SampleRowsArguments& arguments, void* stream);

// regularizer_gamma.h's GammaCoefficients. Without a regularizer `base` is 0.
struct RoutingGamma {
  float base;
  float eps;
  float nll_weight;
  float disagreement_weight;
  bool constant;
};

// routing.h in two launches: every token once, then the blocks' sums in a fixed order. Each token's
// terms are float32, the sums float64. A layer without a router has no logits: the columns made of
// them stay 0. An evaluation has neither gate_gradient nor grad_logits, and no gamma.
struct RoutingArguments {
  BranchTaken taken;
  const bool* route;           // [tokens] full attention; null unless `taken` is kRouted
  const int64_t* position;     // [tokens] index in the document
  const bool* counted;         // [tokens]
  const float* logits;         // [tokens] s, or null
  const float* disagreement;   // [tokens] or null (taken as 0)
  const float* weight;         // [tokens] of estimated terms and grad_logits, or null (taken as 1)
  const float* nll;            // [tokens]; null where gamma is constant or its base 0
  const float* gate_gradient;  // [tokens] dL/dgate, or null (taken as 0)
  float* grad_logits;          // [tokens] or null; needs `logits`
  RoutingGamma gamma;
  int64_t tokens;
  int64_t layers;  // of the model
  int64_t window;
  double* partial;  // [routing_blocks(), RoutingStatistics::kColumns], scratch
  double* row;      // [RoutingStatistics::kColumns], overwritten
};
void routing(const RoutingArguments& arguments, void* stream);
int routing_blocks();

// In place on x [tokens, heads, head_dim] whose tokens lie `token_stride` elements apart;
// cosine and sine [tokens, head_dim / 2] float32; `direction` 1 or -1.
void apply_rotary(Bf16* x, const float* cosine, const float* sine, int64_t tokens, int64_t heads,
                  int64_t head_dim, int64_t token_stride, float direction, void* stream);

// head_norm.h, a launch forward and two backward.
struct HeadNormArguments {
  const Bf16* weight;   // [head_dim]
  const float* cosine;  // [tokens, head_dim / 2]
  const float* sine;    // [tokens, head_dim / 2]
  int64_t tokens;       // at least 1
  int64_t heads;
  int64_t head_dim;      // a multiple of 16, at most kMaxHeadNormWidth
  int64_t token_stride;  // of what is worked on in place, in elements; a multiple of 8
  float eps;
};
// In place on x; `before` [tokens, heads, head_dim] contiguous: x as it was.
void head_norm_forward(const HeadNormArguments& arguments, Bf16* x, Bf16* before, void* stream);
// In place on grad, with head_norm_backward_blocks() blocks, for which `grad_weight` has scratch.
void head_norm_backward(const HeadNormArguments& arguments, Bf16* grad, const Bf16* before,
                        const ColumnSum& grad_weight, int64_t blocks, void* stream);
int64_t head_norm_backward_blocks(int64_t tokens, int64_t heads, int64_t head_dim);

constexpr int64_t kMaxHeadNormWidth = 512;

// gate_up [rows, 2 width] → activated [rows, width]. The backward works in place: gate_up becomes
// its gradient, and grad [rows, width] what the forward put out.
void swiglu_forward(const Bf16* gate_up, Bf16* activated, int64_t rows, int64_t width,
                    void* stream);
void swiglu_backward(Bf16* gate_up, Bf16* grad, int64_t rows, int64_t width, void* stream);

// logits [rows, vocab] float32 → nll [rows] (0 where the target is negative) and, unless null,
// grad_logits [rows, vocab] = softmax - onehot (0 there too).
void cross_entropy(const float* logits, const int64_t* targets, float* nll, Bf16* grad_logits,
                   int64_t rows, int64_t vocab, void* stream);

}  // namespace swiattn::gpu
