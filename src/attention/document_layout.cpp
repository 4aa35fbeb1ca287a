#include "attention/document_layout.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/check.h"

namespace swiattn {
namespace {

at::Tensor device_indices(const std::vector<int64_t>& values, at::ScalarType type,
                          c10::Device device) {
  return at::tensor(at::IntArrayRef(values), type).to(device);
}

}  // namespace

int64_t DocumentLayout::uniform_length() const {
  return longest * documents() == tokens ? longest : 0;
}

DocumentLayout make_document_layout(std::vector<int32_t> starts, int64_t window,
                                    c10::Device device) {
  SWIATTN_CHECK(starts.size() >= 2 && starts.front() == 0, "a layout begins at token 0");
  DocumentLayout layout;
  layout.tokens = starts.back();
  std::vector<int64_t> positions, far_queries, far_keys, far_starts{0};
  positions.reserve(static_cast<size_t>(layout.tokens));
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t begin = starts[i];
    const int64_t length = starts[i + 1] - begin;
    SWIATTN_CHECK(length > 0, "document {} is empty", i);
    layout.longest = std::max(layout.longest, length);
    for (int64_t position = 0; position < length; ++position) {
      positions.push_back(position);
      if (position < window) continue;
      far_queries.push_back(begin + position);
      far_keys.push_back(begin + position - window);
    }
    if (length > window) {
      layout.far_longest = std::max(layout.far_longest, length - window);
      far_starts.push_back(static_cast<int64_t>(far_queries.size()));
    }
  }
  layout.starts_device =
      device_indices(std::vector<int64_t>(starts.begin(), starts.end()), at::kInt, device);
  layout.position = device_indices(positions, at::kLong, device);
  layout.far_queries = device_indices(far_queries, at::kLong, device);
  layout.far_keys = device_indices(far_keys, at::kLong, device);
  layout.far_starts_device = device_indices(far_starts, at::kInt, device);
  layout.starts = std::move(starts);
  if (device.is_cuda()) {
    layout.documents_packed =
        pack_documents(layout.starts_device, layout.tokens, layout.longest, 0);
    layout.far_documents =
        pack_documents(layout.starts_device, layout.tokens, layout.longest, window);
  }
  return layout;
}

}  // namespace swiattn
