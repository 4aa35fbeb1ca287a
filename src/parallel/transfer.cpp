#include "parallel/transfer.h"

#include <ATen/ATen.h>

#include <cstring>

#include "base/check.h"

namespace swiattn {
namespace {

constexpr int64_t kAlignment = 256;  // as the device's allocator has it

int64_t aligned_bytes(const at::Tensor& tensor) {
  return (static_cast<int64_t>(tensor.nbytes()) + kAlignment - 1) / kAlignment * kAlignment;
}

// The allocator of pinned memory hands a buffer out again only when the copies from and to it are
// done, so that it may go out of scope before them.
at::Tensor host_buffer(at::IntArrayRef sizes, at::ScalarType type, c10::Device device) {
  return at::empty(sizes, at::TensorOptions().dtype(type).pinned_memory(!device.is_cpu()));
}

}  // namespace

std::vector<at::Tensor> upload(const std::vector<at::Tensor>& host, c10::Device device) {
  int64_t bytes = 0;
  for (const at::Tensor& tensor : host) {
    SWIATTN_CHECK(tensor.device().is_cpu() && tensor.is_contiguous(),
                  "contiguous tensors of the host are uploaded");
    bytes += aligned_bytes(tensor);
  }
  const at::Tensor staged = host_buffer({bytes}, at::kByte, device);
  auto* to = static_cast<std::byte*>(staged.mutable_data_ptr());
  for (const at::Tensor& tensor : host) {
    if (tensor.numel() > 0) std::memcpy(to, tensor.const_data_ptr(), tensor.nbytes());
    to += aligned_bytes(tensor);
  }
  const at::Tensor arrived = staged.to(device, /*non_blocking=*/true);

  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const at::Tensor& tensor : host) {
    parts.push_back(arrived.narrow(0, begin, static_cast<int64_t>(tensor.nbytes()))
                        .view(tensor.scalar_type())
                        .view(tensor.sizes()));
    begin += aligned_bytes(tensor);
  }
  return parts;
}

at::Tensor download(const at::Tensor& tensor) {
  SWIATTN_CHECK(tensor.is_contiguous(), "contiguous tensors are downloaded");
  at::Tensor host = host_buffer(tensor.sizes(), tensor.scalar_type(), tensor.device());
  host.copy_(tensor, /*non_blocking=*/true);
  return host;
}

}  // namespace swiattn
