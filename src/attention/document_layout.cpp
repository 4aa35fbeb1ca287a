#include "attention/document_layout.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "base/check.h"

namespace swiattn {

int64_t DocumentLayout::uniform_length() const {
  return longest * documents() == tokens ? longest : 0;
}

DocumentLayout make_document_layout(std::vector<int32_t> starts, c10::Device device) {
  SWIATTN_CHECK(starts.size() >= 2 && starts.front() == 0, "a layout begins at token 0");
  DocumentLayout layout;
  layout.tokens = starts.back();
  at::Tensor position = at::empty({layout.tokens}, at::kLong);
  auto* positions = position.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    SWIATTN_CHECK(starts[i] < starts[i + 1], "document {} is empty", i);
    layout.longest = std::max<int64_t>(layout.longest, starts[i + 1] - starts[i]);
    for (int32_t t = starts[i]; t < starts[i + 1]; ++t) positions[t] = t - starts[i];
  }
  layout.starts_device =
      at::tensor(at::IntArrayRef(std::vector<int64_t>(starts.begin(), starts.end())), at::kInt)
          .to(device);
  layout.position = position.to(device);
  layout.starts = std::move(starts);
  return layout;
}

}  // namespace swiattn
