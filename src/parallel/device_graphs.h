// Work of a device that is recorded once and handed to it as a whole from then on: CUDA graphs.
// Handing over one launch after the other costs the host some microseconds each, and the GPU a
// pause between two of them.
#pragma once

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace swiattn {

// Recordings that share the memory of what they compute: replaying one may overwrite the results of
// the others. Not thread-safe.
//
// On a CPU, which queues nothing, a recording is the work itself, and a replay carries it out.
class DeviceGraphs {
 public:
  explicit DeviceGraphs(c10::Device device);
  ~DeviceGraphs();

  DeviceGraphs(const DeviceGraphs&) = delete;
  DeviceGraphs& operator=(const DeviceGraphs&) = delete;

  // Records what `work` queues on the current stream instead of carrying it out, and returns its
  // number. Tensors that `work` makes and that are kept receive their values at every replay.
  // Operands are read where they are now: they outlive this object. What libraries make when they
  // are first used has to be there, so the same work has been done before.
  //
  // Throws what `work` throws, and std::exception where it waits for the device, or copies from or
  // to the host, which cannot be repeated; then nothing was recorded or carried out.
  size_t record(std::function<void()> work);

  // Queues a recording on the current stream.
  void replay(size_t recording);

  // Of the device, that recordings keep to themselves.
  int64_t memory_bytes() const;

  struct Recorder;

 private:
  std::unique_ptr<Recorder> recorder_;
};

}  // namespace swiattn
