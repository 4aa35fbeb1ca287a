// How attention is computed: the pieces that SwitchAttention is built from, behind one interface.
//
// For query i of a document, NEAR is the keys i-w < j <= i (w of them, its own included), FAR the
// keys j <= i-w, and FULL both. Attention over FULL is the merge of NEAR and FAR by their
// log-sum-exps, and the flash backward is additive over subsets of keys when it is given the final
// output and log-sum-exp; docs/method.md has the derivation.
//
// Adding a backend is one file and one line in backend.cpp's table.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attention/document_layout.h"
#include "parallel/gradient_sum.h"

namespace swiattn {

struct AttentionShape {
  int64_t heads = 0;     // Hq
  int64_t kv_heads = 0;  // Hkv
  int64_t head_dim = 0;  // D
  int64_t window = 0;    // w
  double scale = 0.0;    // of the logits, 1 / sqrt(D)

  // Views into the packed projection [T, (Hq + 2 Hkv) D].
  at::Tensor queries(const at::Tensor& qkv) const;           // [T, Hq, D]
  at::Tensor keys(const at::Tensor& qkv) const;              // [T, Hkv, D]
  at::Tensor queries_and_keys(const at::Tensor& qkv) const;  // [T, Hq + Hkv, D]
  at::Tensor values(const at::Tensor& qkv) const;            // [T, Hkv, D]
};

struct Attended {
  at::Tensor out;        // [T, Hq, D], the type of q
  at::Tensor logsumexp;  // [Hq, T] natural logarithm, accumulation type, contiguous
};

enum class Band { kNear, kFar, kFull };

// Whether each token's disagreement is the mean or the sum over heads and head width.
enum class DisagreementReduction { kMean, kSum };

// Both branches of every token, or of those that `both` marks, merged: what the backward needs, and
// what the loss reads.
struct SwitchSaved {
  at::Tensor out;           // [T, Hq, D] o of the branch taken
  at::Tensor difference;    // [T, Hq, D] o_full - o_swa, exactly 0 where nothing is far
  at::Tensor logsumexp;     // [Hq, T] of the branch taken
  at::Tensor disagreement;  // [T] of ||o_full - o_swa||^2, accumulation type
  at::Tensor route;         // [T] bool: full attention
  // [T] bool: the tokens with a difference; undefined: all. Of the others `difference` holds
  // anything and is not read, and the disagreement is 0.
  at::Tensor both;
};

// All tensors lie on one device; qkv is [T, (Hq + 2 Hkv) D] with rotary positions applied.
class AttentionBackend {
 public:
  virtual ~AttentionBackend() = default;
  virtual const char* name() const = 0;

  // Rows without a key of the band (FAR only: the first w of a document) give out 0, logsumexp
  // -inf.
  virtual Attended forward(Band band, const at::Tensor& qkv, const DocumentLayout& layout,
                           const AttentionShape& shape) const = 0;

  // The gradient through the keys of one band, given the FINAL output and log-sum-exp of each row.
  // `rows` [T] bool limits it to the rows it marks (undefined: all); the log-sum-exp of every row,
  // marked or not, must be at least its true one over the band. Into `grad_qkv`
  // [T, (Hq + 2 Hkv) D] as `sum` says.
  virtual void backward(Band band, const at::Tensor& grad_out, const at::Tensor& qkv,
                        const Attended& final, const at::Tensor& rows, const DocumentLayout& layout,
                        const AttentionShape& shape, const at::Tensor& grad_qkv,
                        GradientSum sum) const = 0;

  // Both branches of every token and the one that `route` [T] bool chooses: near and far forwards
  // and their merge, unless a backend has better.
  virtual SwitchSaved switch_forward(const at::Tensor& qkv, const at::Tensor& route,
                                     const DocumentLayout& layout, const AttentionShape& shape,
                                     DisagreementReduction reduction) const;

  // Merges the two branches' NEAR and FAR and chooses by `route` [T] bool. Takes the buffers over.
  // Plain ATen unless a backend has better.
  virtual SwitchSaved merge(Attended near, Attended far, const at::Tensor& route,
                            const DocumentLayout& layout, const AttentionShape& shape,
                            DisagreementReduction reduction) const;

  // o of the branch that `route` chooses [T, Hq, D] and nothing else: what an evaluation needs.
  // Computes both branches of every token unless a backend has better.
  virtual at::Tensor attend_routed(const at::Tensor& qkv, const at::Tensor& route,
                                   const DocumentLayout& layout, const AttentionShape& shape) const;

  // NEAR of all tokens, and both branches of those that `both` [T] bool marks; that is all with far
  // keys that `route` marks, and any others. All of every token's branches are computed unless a
  // backend has better.
  virtual SwitchSaved attend_sampled(const at::Tensor& qkv, const at::Tensor& route,
                                     const at::Tensor& both, const DocumentLayout& layout,
                                     const AttentionShape& shape,
                                     DisagreementReduction reduction) const;

  // The backward of both branches and their merge, given dL/do of the branch taken: returns
  // gate_gradient() and writes dL/dqkv to grad_qkv. Composed of near and far backwards unless a
  // backend has better.
  virtual at::Tensor switch_backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                                     const SwitchSaved& saved, const DocumentLayout& layout,
                                     const AttentionShape& shape, const at::Tensor& grad_qkv) const;

  // Whether both branches, their merge and their backward launch the same work for all layouts of
  // as many tokens that have far keys, and for all that have none: they then read no more of a
  // layout than `position` and numbers that these share.
  virtual bool switch_follows_positions(const AttentionShape& shape) const { return false; }

  // <dL/do, o_full - o_swa> of every token [T], the straight-through estimator's factor; 0 of
  // tokens without a difference.
  virtual at::Tensor gate_gradient(const at::Tensor& grad_out, const SwitchSaved& saved,
                                   const DocumentLayout& layout, const AttentionShape& shape) const;
};

// Head widths that `fused` has kernels of its own for.
constexpr bool has_own_kernels(int64_t head_dim) { return head_dim == 64 || head_dim == 128; }

// Hears of shapes that the fastest kernels do not serve, why, and what serves instead: a sentence
// for a person, the first that each backend has to say.
using AttentionNotice = std::function<void(const std::string& sentence)>;

// `name`: auto | reference | library | fused, for operands of this type on this device. Throws
// Error{kConfiguration} for a name that is not in the table, listing what is.
std::unique_ptr<AttentionBackend> make_attention_backend(const std::string& name,
                                                         c10::Device device, at::ScalarType type,
                                                         const AttentionNotice& notice = {});

// For backends: hands the first sentence on and is silent from then on.
void tell_once(AttentionNotice& notice, const std::string& sentence);

// The members of the table.
std::unique_ptr<AttentionBackend> make_reference_backend();
std::unique_ptr<AttentionBackend> make_blockwise_backend();  // `library` on a CPU, or in float32
// `library` on a GPU in bfloat16.
std::unique_ptr<AttentionBackend> make_cudnn_backend(AttentionNotice notice);
std::unique_ptr<AttentionBackend> make_flash_backend();  // its part where cuDNN has no kernel
// `fused` on a GPU in bfloat16; `library` serves what our kernels do not cover.
std::unique_ptr<AttentionBackend> make_fused_backend(std::unique_ptr<AttentionBackend> library,
                                                     AttentionNotice notice);

}  // namespace swiattn
