// The memory that a layer's saved tensors hold.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <set>
#include <vector>

#include "model/layer_saved.h"

namespace swiattn {

inline std::vector<at::Tensor> saved_tensors(const LayerSaved& saved) {
  std::vector<at::Tensor> all = {saved.entry,  saved.logits,      saved.weight,   saved.qkv,
                                 saved.middle, saved.raw_queries, saved.raw_keys, saved.gate_up};
  for (const RmsNormOutput& norm : {saved.input_norm, saved.post_norm}) {
    all.insert(all.end(), {norm.normed, norm.inverse_rms});
  }
  const SwitchSaved& attention = saved.attention;
  all.insert(all.end(), {attention.out, attention.difference, attention.logsumexp,
                         attention.disagreement, attention.route, attention.both});
  return all;
}

// Of whole buffers, however little of one a tensor shows; a buffer that several share counts once.
inline int64_t held_bytes(const LayerSaved& saved) {
  std::set<const void*> counted;
  int64_t bytes = 0;
  for (const at::Tensor& tensor : saved_tensors(saved)) {
    if (!tensor.defined() || !counted.insert(tensor.storage().data()).second) continue;
    bytes += static_cast<int64_t>(tensor.storage().nbytes());
  }
  return bytes;
}

}  // namespace swiattn
