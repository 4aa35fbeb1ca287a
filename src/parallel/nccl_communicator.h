// The communicator of GPU ranks: tensors over NCCL, host values over MPI.
#pragma once

#include <c10/core/Device.h>

#include <memory>

#include "parallel/communicator.h"

namespace swiattn {

// Collective. `host` carries NCCL's id and all host values. Operations are queued on the current
// stream of `device`, one process a device.
std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     c10::Device device);

}  // namespace swiattn
