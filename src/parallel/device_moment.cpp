#include "parallel/device_moment.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>

namespace swiattn {

DeviceMoment::DeviceMoment(c10::Device device) {
  if (device.is_cpu()) {
    using Clock = std::chrono::steady_clock;
    host_seconds_ = std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
    return;
  }
  event_.emplace(device.type(), c10::EventFlag::BACKEND_DEFAULT);  // the kind with a time
  event_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

void DeviceMoment::wait() const {
  if (event_) event_->synchronize();
}

double DeviceMoment::seconds_since(const DeviceMoment& before) const {
  if (event_) return 1e-3 * before.event_->elapsedTime(*event_);
  return host_seconds_ - before.host_seconds_;
}

}  // namespace swiattn
