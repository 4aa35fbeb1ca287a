#include "parallel/nccl_communicator.h"

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <cstring>
#include <utility>

#include "base/check.h"

namespace swiattn {
namespace {

void check_nccl(ncclResult_t status, const char* operation) {
  if (status == ncclSuccess || status == ncclInProgress) return;
  fail(ExitCode::kCommunication, "{} failed: {}; NCCL_DEBUG=INFO tells more.", operation,
       ncclGetErrorString(status));
}

ncclDataType_t nccl_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kLong:
      return ncclInt64;
    default:
      fail(ExitCode::kInternal, "Internal error: no reduction over this element type.");
  }
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, c10::Device device)
      : host_(std::move(host)), device_(device) {
    c10::cuda::set_device(device.index());
    ncclUniqueId id{};
    if (host_->is_root()) check_nccl(ncclGetUniqueId(&id), "ncclGetUniqueId");
    const std::string text =
        host_->broadcast_text(std::string(id.internal, sizeof(id.internal)), 0);
    std::memcpy(id.internal, text.data(), sizeof(id.internal));
    check_nccl(ncclCommInitRank(&communicator_, host_->size(), id, host_->rank()),
               "ncclCommInitRank");
  }
  // Not destroyed by ncclCommDestroy, which waits for peers that may be gone: the process is
  // ending.
  ~NcclCommunicator() override = default;

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  void all_reduce(at::Tensor& tensor) override {
    check_device(tensor);
    check_nccl(ncclAllReduce(tensor.const_data_ptr(), tensor.mutable_data_ptr(),
                             static_cast<size_t>(tensor.numel()), nccl_type(tensor.scalar_type()),
                             ncclSum, communicator_, stream()),
               "ncclAllReduce");
  }

  void broadcast(at::Tensor& tensor, int root) override {
    check_device(tensor);
    check_nccl(ncclBroadcast(tensor.const_data_ptr(), tensor.mutable_data_ptr(), tensor.nbytes(),
                             ncclChar, root, communicator_, stream()),
               "ncclBroadcast");
  }

  std::string broadcast_text(const std::string& text, int root) override {
    return host_->broadcast_text(text, root);
  }
  std::vector<std::string> all_gather_text(const std::string& text) override {
    return host_->all_gather_text(text);
  }

 private:
  cudaStream_t stream() const { return c10::cuda::getCurrentCUDAStream(device_.index()).stream(); }

  void check_device(const at::Tensor& tensor) const {
    SWIATTN_CHECK(tensor.device() == device_ && tensor.is_contiguous(),
                  "NCCL takes contiguous tensors of this rank's GPU");
  }

  std::unique_ptr<Communicator> host_;
  c10::Device device_;
  ncclComm_t communicator_ = nullptr;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     c10::Device device) {
  return std::make_unique<NcclCommunicator>(std::move(host), device);
}

}  // namespace swiattn
