// Packed documents as cuDNN's ragged tensors need them: where each one's rows begin, and how many
// there are, on the device. Sizes are rounded up, so that few plans serve many micro-batches.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace swiattn {

// Documents [starts[i], starts[i + 1]) of T packed tokens. Document i's queries are its last n_i
// rows and its keys its first n_i, where n_i is its length less `skip`, at least 0: with skip 0
// every row against its own document, with skip w the far keys as plain causal attention (query i
// sees key j when j <= i - w). Nothing is copied together: cuDNN finds rows by these offsets.
struct PackedDocuments {
  int64_t count = 0;    // P: the number of documents up to a power of two; the added ones are empty
  int64_t longest = 0;  // at least every n_i: a power of two from 128, unless T is nearer
  bool gaps = false;    // some rows are no query's, some no key's: skip > 0
  at::Tensor starts;    // [2, P + 1 up to an even number] int64: first query, first key; T after P
  at::Tensor lengths;   // [P] int32: n_i
};

// `starts` [documents + 1] int32: 0 first, T = `tokens` last; `longest` of the documents, before
// skipping. Works on the device of `starts` without waiting for it. Made once a micro-batch, shared
// by its layers; a captured CUDA graph that is to follow other documents has to capture this, too.
PackedDocuments pack_documents(const at::Tensor& starts, int64_t tokens, int64_t longest,
                               int64_t skip);

// n rounded up to one of eight sizes between two powers of two, multiples of 128: the sizes for
// which plans are made.
int64_t round_for_plans(int64_t n);

}  // namespace swiattn
