// Where the documents of a packed micro-batch begin and end, in the forms that attention needs.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

#include "attention/packed_documents.h"

namespace swiattn {

// The rows that have far keys (the last n - w of a document of n > w tokens), packed: against the
// first n - w keys of their documents they are plain causal attention. F rows in all.
struct FarRows {
  at::Tensor queries;  // [F] int64 token indices
  at::Tensor keys;     // [F] int64
  at::Tensor starts;   // int32 offsets into the F rows, one document longer than w each
};

// T packed tokens in documents; token t of document [a, b) sees keys a..t. Made once a micro-batch
// and shared by all layers.
struct DocumentLayout {
  std::vector<int32_t> starts;  // [documents + 1], 0 first, T last
  int64_t tokens = 0;           // T
  int64_t longest = 0;          // tokens of the longest document
  int64_t window = 0;           // w
  int64_t far_longest = 0;      // the most rows of a document that have far keys
  at::Tensor starts_device;     // `starts` as int32 on the device
  at::Tensor position;  // [T] int64: index in the document, so that position + 1 keys are visible

  // All rows, and the far ones, as cuDNN's ragged tensors; made on a GPU alone.
  PackedDocuments documents_packed, far_documents;

  int64_t documents() const { return static_cast<int64_t>(starts.size()) - 1; }
  // The common length of all documents, or 0 when they differ: then views of [B, S] serve.
  int64_t uniform_length() const;
  // Made when they are first asked for: only what copies rows together needs them. Not thread-safe.
  const FarRows& far_rows() const;

 private:
  mutable FarRows far_rows_;
};

// The host looks at documents, never at tokens; what has an entry for each token is computed on the
// device, which the host does not wait for.
DocumentLayout make_document_layout(std::vector<int32_t> starts, int64_t window,
                                    c10::Device device);

}  // namespace swiattn
