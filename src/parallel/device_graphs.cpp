#include "parallel/device_graphs.h"

#include <type_traits>
#include <utility>
#include <vector>

#ifdef SWIATTN_CUDA
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <stdexcept>

#include "base/cuda_check.h"
#endif

namespace swiattn {

struct DeviceGraphs::Recorder {
  virtual ~Recorder() = default;
  virtual size_t record(std::function<void()> work) = 0;
  virtual void replay(size_t recording) = 0;
  virtual int64_t memory_bytes() const = 0;
};

namespace {

class HostRecorder final : public DeviceGraphs::Recorder {
 public:
  size_t record(std::function<void()> work) override {
    work_.push_back(std::move(work));
    return work_.size() - 1;
  }
  void replay(size_t recording) override { work_.at(recording)(); }
  int64_t memory_bytes() const override { return 0; }

 private:
  std::vector<std::function<void()>> work_;
};

#ifdef SWIATTN_CUDA

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
};
struct DestroyExecutable {
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph>;
using Executable = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyExecutable>;

bool on_device(const void* pointer) {
  cudaPointerAttributes attributes{};
  SWIATTN_CHECK_CUDA(cudaPointerGetAttributes(&attributes, pointer));
  return attributes.type == cudaMemoryTypeDevice;
}

// The host's memory holds something else by the time of a replay.
void refuse_copies_of_host_memory(cudaGraph_t graph) {
  size_t count = 0;
  SWIATTN_CHECK_CUDA(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  SWIATTN_CHECK_CUDA(cudaGraphGetNodes(graph, nodes.data(), &count));
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    SWIATTN_CHECK_CUDA(cudaGraphNodeGetType(node, &type));
    if (type != cudaGraphNodeTypeMemcpy) continue;
    cudaMemcpy3DParms copy{};
    SWIATTN_CHECK_CUDA(cudaGraphMemcpyNodeGetParams(node, &copy));
    if (on_device(copy.srcPtr.ptr) && on_device(copy.dstPtr.ptr)) continue;
    throw std::runtime_error("it copies from or to the host's memory");
  }
}

// As SWIATTN_CHECK_CUDA, for failures after which the run goes on without the recording: the next
// call of CUDA that asks for the last error must not find this one.
void check_and_forget(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
  SWIATTN_CHECK_CUDA(status);
}

// ATen's own class for graphs leaves its allocator in the middle of a recording that has failed;
// this one ends it.
class CudaRecorder final : public DeviceGraphs::Recorder {
 public:
  explicit CudaRecorder(c10::Device device)
      : stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index())),
        memory_(at::cuda::graph_pool_handle()) {}

  CudaRecorder(const CudaRecorder&) = delete;
  CudaRecorder& operator=(const CudaRecorder&) = delete;

  ~CudaRecorder() override {
    executables_.clear();
    for (size_t i = 0; i < attempts_; ++i) {
      c10::cuda::CUDACachingAllocator::releasePool(stream_.device_index(), memory_);
      at::getHostAllocator(at::kCUDA)->release_pool(memory_);
    }
  }

  size_t record(std::function<void()> work) override {
    const Graph graph = capture(work);
    refuse_copies_of_host_memory(graph.get());
    cudaGraphExec_t executable = nullptr;
    check_and_forget(cudaGraphInstantiate(&executable, graph.get(), 0));
    executables_.emplace_back(executable);
    return executables_.size() - 1;
  }

  void replay(size_t recording) override {
    check_and_forget(cudaGraphLaunch(executables_.at(recording).get(),
                                     c10::cuda::getCurrentCUDAStream(stream_.device_index())));
  }

  int64_t memory_bytes() const override { return memory_bytes_; }

 private:
  // While it lives, the stream of recordings gets memory of their own, and so does the host for
  // its copies: allocators must not ask the stream how far it has come.
  class Allocation {
   public:
    explicit Allocation(CudaRecorder& recorder)
        : device_(recorder.stream_.device_index()), memory_(recorder.memory_) {
      const c10::cuda::CUDAStream stream = recorder.stream_;
      c10::cuda::CUDACachingAllocator::beginAllocateToPool(
          device_, memory_, [stream](cudaStream_t other) { return other == stream.stream(); });
      at::getHostAllocator(at::kCUDA)->begin_allocate_to_pool(
          memory_, [stream](c10::Stream other) { return other == stream.unwrap(); });
      ++recorder.attempts_;  // each of them is released
    }
    ~Allocation() {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(device_, memory_);
      at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(memory_);
    }

    Allocation(const Allocation&) = delete;
    Allocation& operator=(const Allocation&) = delete;

   private:
    c10::DeviceIndex device_;
    c10::MempoolId_t memory_;
  };

  int64_t reserved_bytes() const {
    const auto index = stream_.device_index();
    return c10::cuda::CUDACachingAllocator::getDeviceStats(index).reserved_bytes[0].current;
  }

  Graph capture(const std::function<void()>& work) {
    const c10::cuda::CUDAStreamGuard guard(stream_);
    const Allocation allocation(*this);
    const int64_t reserved = reserved_bytes();
    // What other threads do with the GPU meanwhile is their affair.
    SWIATTN_CHECK_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    try {
      work();
    } catch (...) {
      end_capture();
      throw;
    }
    cudaError_t status = cudaSuccess;
    Graph graph = end_capture(&status);
    SWIATTN_CHECK_CUDA(status);
    memory_bytes_ += reserved_bytes() - reserved;
    return graph;
  }

  // A failure is told here, and not by the next call of CUDA that asks for the last one.
  Graph end_capture(cudaError_t* status = nullptr) {
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
    if (ended != cudaSuccess) cudaGetLastError();
    if (status != nullptr) *status = ended;
    return Graph(graph);
  }

  c10::cuda::CUDAStream stream_;  // of recordings; their work is never carried out on it
  c10::MempoolId_t memory_;
  size_t attempts_ = 0;
  int64_t memory_bytes_ = 0;
  std::vector<Executable> executables_;
};

#endif

std::unique_ptr<DeviceGraphs::Recorder> make_recorder(c10::Device device) {
#ifdef SWIATTN_CUDA
  if (device.is_cuda()) return std::make_unique<CudaRecorder>(device);
#endif
  return std::make_unique<HostRecorder>();
}

}  // namespace

DeviceGraphs::DeviceGraphs(c10::Device device) : recorder_(make_recorder(device)) {}
DeviceGraphs::~DeviceGraphs() = default;

size_t DeviceGraphs::record(std::function<void()> work) {
  return recorder_->record(std::move(work));
}

void DeviceGraphs::replay(size_t recording) { recorder_->replay(recording); }

int64_t DeviceGraphs::memory_bytes() const { return recorder_->memory_bytes(); }

}  // namespace swiattn
