#include "parallel/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <array>
#include <string_view>

#include "base/error.h"
#ifdef SWIATTN_CUDA
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>

#include "base/cuda_check.h"
#endif

namespace swiattn {
namespace {

int gpu_count() {
#ifdef SWIATTN_CUDA
  return c10::cuda::device_count();
#else
  return 0;
#endif
}

#ifdef SWIATTN_CUDA
// Dense bf16 with float32 accumulation, from NVIDIA's data sheets.
struct Peak {
  std::string_view part_of_name;
  double flops;
};
constexpr std::array kPeaks = {
    Peak{"H200 NVL", 835e12}, Peak{"H200", 989.4e12},   Peak{"H100 PCIe", 756e12},
    Peak{"H100 NVL", 835e12}, Peak{"H100", 989.4e12},   Peak{"H800", 989.4e12},
    Peak{"B200", 2250e12},    Peak{"A100", 312e12},     Peak{"A800", 312e12},
    Peak{"L40S", 362e12},     Peak{"RTX 4090", 165e12}, Peak{"RTX 3090", 71e12},
    Peak{"A6000", 155e12},
};
#endif

}  // namespace

c10::Device choose_device(const std::string& wanted, int local_rank) {
  const int gpus = gpu_count();
  if (wanted == "cpu" || (wanted.empty() && gpus == 0)) return c10::Device(c10::kCPU);
  if (gpus == 0) {
    fail(ExitCode::kConfiguration,
         "This host has no GPU that the program can use; give --device cpu.");
  }
  if (local_rank >= gpus) {
    fail(ExitCode::kConfiguration,
         "This host has {} GPUs that the program can use, but rank {} of the host needs one of its "
         "own; start fewer ranks, or give --device cpu.",
         gpus, local_rank);
  }
#ifdef SWIATTN_CUDA
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(local_rank));
#endif
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(local_rank));
}

DeviceFacts device_facts(c10::Device device) {
  DeviceFacts facts;
#ifdef SWIATTN_CUDA
  if (device.is_cuda()) {
    facts.name = at::cuda::getDeviceProperties(device.index())->name;
    for (const Peak& peak : kPeaks) {
      if (facts.name.find(peak.part_of_name) == std::string::npos) continue;
      facts.bf16_peak_flops = peak.flops;
      break;
    }
    return facts;
  }
#endif
  facts.name = fmt::format("CPU, {} threads", at::get_num_threads());
  return facts;
}

bool is_hopper(c10::Device device) {
#ifdef SWIATTN_CUDA
  if (device.is_cuda() && gpu_count() > 0) {
    const auto index = device.has_index() ? device.index() : c10::cuda::current_device();
    const cudaDeviceProp& gpu = *at::cuda::getDeviceProperties(index);
    return gpu.major == 9 && gpu.minor == 0;
  }
#endif
  return device.is_cuda();
}

void choose_algorithms(bool deterministic) {
  at::globalContext().setDeterministicAlgorithms(deterministic, false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
}

int64_t peak_memory_bytes(c10::Device device) {
#ifdef SWIATTN_CUDA
  if (device.is_cuda()) {
    const auto index = device.has_index() ? device.index() : c10::cuda::current_device();
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(index);
    return stats.allocated_bytes[0].peak;
  }
#endif
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

std::optional<int64_t> free_memory_bytes(c10::Device device) {
#ifdef SWIATTN_CUDA
  if (device.is_cuda()) {
    const c10::cuda::CUDAGuard guard(device);
    size_t free = 0, total = 0;
    SWIATTN_CHECK_CUDA(cudaMemGetInfo(&free, &total));
    return static_cast<int64_t>(free);
  }
#endif
  return std::nullopt;
}

void synchronize(c10::Device device) {
#ifdef SWIATTN_CUDA
  if (device.is_cuda()) c10::cuda::device_synchronize();
#endif
}

}  // namespace swiattn
