// Moments in the work of a device: to wait for, and to measure between, without making the device
// wait for the host.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <optional>

namespace swiattn {

// Where the current stream of a device stands: reached when everything queued before is done. On a
// CPU, which queues nothing, the time at which it was made. Movable; not thread-safe.
class DeviceMoment {
 public:
  explicit DeviceMoment(c10::Device device);

  // Returns when the moment has been reached. Throws what the device's work has failed with.
  void wait() const;

  // On the device's clock. Both moments are of one device and have been reached.
  double seconds_since(const DeviceMoment& before) const;

 private:
  std::optional<c10::Event> event_;  // nothing on a CPU
  double host_seconds_ = 0.0;        // on a clock that never goes back; of a CPU
};

}  // namespace swiattn
