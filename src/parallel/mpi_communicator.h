// The communicator of CPU ranks, over MPI_COMM_WORLD. Also carries NCCL's id and host values.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace swiattn {

// MPI must be initialised (MpiSession). Tensors must lie on the CPU.
std::unique_ptr<Communicator> make_mpi_communicator();

// Throws Error{kCommunication} naming the operation and MPI's reason unless `status` is a success.
void check_mpi(int status, const char* operation);

}  // namespace swiattn
