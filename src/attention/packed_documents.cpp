#include "attention/packed_documents.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace swiattn {
namespace {

int64_t power_of_two(int64_t n) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n)));
}

}  // namespace

int64_t round_for_plans(int64_t n) {
  const int64_t step = std::max<int64_t>(128, power_of_two(n) / 16);
  return (n + step - 1) / step * step;
}

PackedDocuments pack_documents(const at::Tensor& starts, int64_t tokens, int64_t longest,
                               int64_t skip) {
  SWIATTN_CHECK(starts.dim() == 1 && starts.size(0) >= 2 && starts.scalar_type() == at::kInt,
                "starts are int32 [documents + 1]");
  SWIATTN_CHECK(tokens > 0 && longest > 0 && longest <= tokens && skip >= 0,
                "{} tokens, the longest document {}, skip {}", tokens, longest, skip);
  PackedDocuments packed;
  const int64_t documents = starts.size(0) - 1;
  packed.count = power_of_two(documents);
  packed.longest =
      std::min(power_of_two(std::max<int64_t>(128, longest - skip)), round_for_plans(tokens));
  packed.gaps = skip > 0;

  // Rows of an even number of int64 lie 16 bytes apart, the alignment that cuDNN is promised.
  const int64_t width = (packed.count + 2) / 2 * 2;
  const at::Tensor begin =
      at::constant_pad_nd(starts.to(at::kLong), {0, width - documents - 1}, tokens);
  const at::Tensor end = at::constant_pad_nd(begin.narrow(0, 1, width - 1), {0, 1}, tokens);
  packed.starts = at::stack({at::minimum(begin + skip, end), begin});
  packed.lengths = (end - begin - skip).clamp_min(0).narrow(0, 0, packed.count).to(at::kInt);
  return packed;
}

}  // namespace swiattn
