// The device a rank computes on, and what its speed and memory are.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

namespace swiattn {

struct DeviceFacts {
  std::string name;                       // "NVIDIA H100 80GB HBM3", "CPU, 2 threads"
  std::optional<double> bf16_peak_flops;  // dense, a second; nothing when it is not known
};

// `wanted`: cpu, cuda, or empty for a GPU if there is one. Rank `local_rank` of a host takes the
// GPU of that number and makes it current. Throws Error{kConfiguration} when there is no such GPU.
c10::Device choose_device(const std::string& wanted, int local_rank);

DeviceFacts device_facts(c10::Device device);

// Whether it is a GPU of compute capability 9.0 (H100, H200). One that is not there, as where a run
// is described on another machine, counts as such.
bool is_hopper(c10::Device device);

// What LibTorch computes with from now on: operations that repeat their bits, or any. Neither fills
// new memory, which nobody reads.
void choose_algorithms(bool deterministic);

// The most memory held so far, in bytes: of the GPU's allocator, or of this process on the CPU.
int64_t peak_memory_bytes(c10::Device device);

// What a device could still be asked for, in bytes, without what its allocator keeps for itself.
// Nothing where it is not known: on a CPU.
std::optional<int64_t> free_memory_bytes(c10::Device device);

// Returns when everything queued on the device is done.
void synchronize(c10::Device device);

}  // namespace swiattn
