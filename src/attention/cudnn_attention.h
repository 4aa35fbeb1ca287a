// Causal attention with or without a sliding window through cuDNN's graph API, which computes
// windows at about twice FlashAttention-2's speed; ATen offers cuDNN's attention without windows.
//
// Covered: bfloat16, head widths 64 and 128, Hq a multiple of Hkv, any window, as many keys as
// queries, compute capability 8.0 and up. Dense problems want lengths that are multiples of 128:
// for others cuDNN's backward has given NaN for rows of strongly negative scores. Packed documents
// of any lengths work on 9.x and 10.x only: cuDNN has no such backward for 8.x, a wrong one for
// 12.x. What is not covered, and what cuDNN makes no plan for, prepare_*() says; nothing crashes.
//
// The backward is NOT deterministic (it adds to dq with atomics). cuDNN's deterministic variant
// needs B Hq S S 2 bytes of workspace on 9.0, window or not, so it is not offered.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "attention/packed_documents.h"

namespace swiattn {

// All tensors lie on one GPU and belong to the caller. They may have any strides that are multiples
// of 16 bytes with the head width contiguous, so views into packed q, k, v and their gradients
// serve as they are, and so do the views q[w:], k[:S-w] of far keys. bfloat16 but for `logsumexp`.
struct CudnnAttentionCall {
  at::Tensor q;          // dense [B, Hq, S, D], packed [T, Hq, D]
  at::Tensor k, v;       // dense [B, Hkv, S, D], packed [T, Hkv, D]
  at::Tensor out;        // like q; forward writes it, backward reads it
  at::Tensor logsumexp;  // dense [B, Hq, S], packed [Hq, T]: float32, natural, any strides
  int64_t window = 0;    // keys that a query sees, its own included (at least 1); 0: all up to it
  double scale = 0.0;    // of the logits
  const PackedDocuments* documents = nullptr;  // null: dense
};

struct CudnnAttentionGradients {
  at::Tensor out;   // like q: dL/d out, read
  at::Tensor q;     // like q: overwritten, as are
  at::Tensor k, v;  // these
};

// Owns its plans, one for each shape, set of strides, window and scale, and each is built once
// (0.3 to 1 s: cuDNN compiles). Calls use the current stream, wait for nothing on the host, and
// take workspace from ATen's allocator: once prepared they may be captured in a CUDA graph. For one
// thread.
class CudnnAttention {
 public:
  static constexpr int64_t kDenseMultiple = 128;  // of the lengths of dense problems

  CudnnAttention();
  ~CudnnAttention();

  // Whether this program was built with cudnn-frontend and runs with a cuDNN that is new enough.
  static bool available();

  // Builds the plan for such a call unless there is one. False: it is not covered, or cuDNN refuses
  // it, which is remembered; the caller takes another way. refusal() is the sentence of the latest
  // false.
  bool prepare_forward(const CudnnAttentionCall& call);
  bool prepare_backward(const CudnnAttentionCall& call, const CudnnAttentionGradients& gradients);
  const std::string& refusal() const;

  // After prepare_*() was true for calls of this kind; std::runtime_error with cuDNN's message if
  // not, or if the launch fails. Every row is written: where `documents` leave out rows, their out
  // and gradients are 0 and their logsumexp -inf.
  void forward(const CudnnAttentionCall& call);
  // Takes `out` and `logsumexp` as the FINAL ones, like the backward of AttentionBackend. A row's
  // logsumexp must be finite unless `documents` leave it out.
  void backward(const CudnnAttentionCall& call, const CudnnAttentionGradients& gradients);

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace swiattn
