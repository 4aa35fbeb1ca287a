#include "attention/document_layout.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/check.h"
#include "parallel/transfer.h"

namespace swiattn {
namespace {

at::Tensor on_host(const std::vector<int32_t>& values) {
  return at::tensor(at::ArrayRef<int32_t>(values), at::kInt);
}

// Of the rows 0, 1, … of segments that end before `ends` [n], the segment of each.
at::Tensor segment_of(const at::Tensor& rows, const at::Tensor& ends) {
  return at::bucketize(rows, ends, /*out_int32=*/true, /*right=*/true);
}

at::Tensor positions(const at::Tensor& starts, int64_t tokens) {
  const at::Tensor token = at::arange(tokens, starts.options());
  const at::Tensor document = segment_of(token, starts.narrow(0, 1, starts.size(0) - 1));
  return (token - starts.index_select(0, document)).to(at::kLong);
}

}  // namespace

int64_t DocumentLayout::uniform_length() const {
  return longest * documents() == tokens ? longest : 0;
}

const FarRows& DocumentLayout::far_rows() const {
  if (far_rows_.starts.defined()) return far_rows_;
  std::vector<int32_t> far_starts{0};
  std::vector<int32_t> shift;  // from a far row to its key
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t rows = starts[i + 1] - starts[i] - window;
    if (rows <= 0) continue;
    shift.push_back(starts[i] - far_starts.back());
    far_starts.push_back(far_starts.back() + static_cast<int32_t>(rows));
  }
  const auto parts = upload({on_host(far_starts), on_host(shift)}, starts_device.device());
  const at::Tensor row = at::arange(far_starts.back(), parts[0].options());
  const auto segments = static_cast<int64_t>(shift.size());
  const at::Tensor segment =
      segments > 0 ? segment_of(row, parts[0].narrow(0, 1, segments)) : row;  // both are empty
  far_rows_.keys = (row + parts[1].index_select(0, segment)).to(at::kLong);
  far_rows_.queries = far_rows_.keys + window;
  far_rows_.starts = parts[0];
  return far_rows_;
}

DocumentLayout make_document_layout(std::vector<int32_t> starts, int64_t window,
                                    c10::Device device) {
  SWIATTN_CHECK(starts.size() >= 2 && starts.front() == 0, "a layout begins at token 0");
  DocumentLayout layout;
  layout.tokens = starts.back();
  layout.window = window;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    SWIATTN_CHECK(starts[i + 1] > starts[i], "document {} is empty", i);
    layout.longest = std::max<int64_t>(layout.longest, starts[i + 1] - starts[i]);
  }
  layout.far_longest = std::max<int64_t>(0, layout.longest - window);

  std::vector<at::Tensor> parts = {on_host(starts)};
  layout.starts = std::move(starts);
  if (device.is_cuda()) {
    layout.documents_packed = pack_documents(parts[0], layout.tokens, layout.longest, 0);
    layout.far_documents = pack_documents(parts[0], layout.tokens, layout.longest, window);
    for (const PackedDocuments* packed : {&layout.documents_packed, &layout.far_documents}) {
      parts.push_back(packed->starts);
      parts.push_back(packed->lengths);
    }
  }
  parts = upload(parts, device);
  layout.starts_device = parts[0];
  if (device.is_cuda()) {
    layout.documents_packed.starts = parts[1];
    layout.documents_packed.lengths = parts[2];
    layout.far_documents.starts = parts[3];
    layout.far_documents.lengths = parts[4];
  }
  layout.position = positions(layout.starts_device, layout.tokens);
  return layout;
}

}  // namespace swiattn
