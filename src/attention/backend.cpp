#include "attention/backend.h"

#include <ATen/ATen.h>

#include "base/error.h"

namespace swiattn {

at::Tensor AttentionShape::queries(const at::Tensor& qkv) const {
  return qkv.narrow(1, 0, heads * head_dim).unflatten(1, {heads, head_dim});
}

at::Tensor AttentionShape::keys(const at::Tensor& qkv) const {
  return qkv.narrow(1, heads * head_dim, kv_heads * head_dim).unflatten(1, {kv_heads, head_dim});
}

at::Tensor AttentionShape::values(const at::Tensor& qkv) const {
  return qkv.narrow(1, (heads + kv_heads) * head_dim, kv_heads * head_dim)
      .unflatten(1, {kv_heads, head_dim});
}

std::unique_ptr<AttentionBackend> make_attention_backend(const std::string& name,
                                                         c10::Device device, at::ScalarType type) {
  if (name == "reference") return make_reference_backend();
  if (name == "auto" || name == "library") {
    const bool flash = device.is_cuda() && type == at::kBFloat16;
    return flash ? make_flash_backend() : make_blockwise_backend();
  }
  fail(ExitCode::kConfiguration,
       "attention.backend: '{}' is not available in this version; use auto, library or reference.",
       name);
}

}  // namespace swiattn
