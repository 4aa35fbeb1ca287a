// Copies between the host and a device that nobody waits for: through pinned memory, in the order
// of the device's current stream.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <vector>

namespace swiattn {

// Contiguous tensors of the host on a device, all in one copy; each begins at a multiple of 256
// bytes. Their memory is read before this returns. The results share one buffer, which lives as
// long as any of them. On a CPU plain copies.
std::vector<at::Tensor> upload(const std::vector<at::Tensor>& host, c10::Device device);

// A contiguous tensor on the host. It may be read once the device has reached a moment that follows
// this call (device_moment.h); on a CPU at once.
at::Tensor download(const at::Tensor& tensor);

}  // namespace swiattn
