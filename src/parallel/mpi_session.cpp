#include "parallel/mpi_session.h"

#include <mpi.h>

#include <cstdlib>

#include "parallel/mpi_communicator.h"

namespace swiattn {
namespace {

// Set by Open MPI, by Slurm with PMI, and by MPICH's Hydra. Without them MPI_Init would start a
// world of one at the price of a second and of a daemon.
bool started_by_launcher() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

}  // namespace

MpiSession::MpiSession() {
  if (!started_by_launcher()) return;
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  initialised_ = true;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm local = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(local, &local_rank_), "MPI_Comm_rank");
  MPI_Comm_free(&local);
}

MpiSession::~MpiSession() {
  if (initialised_ && finished_) MPI_Finalize();
}

void MpiSession::abort(ExitCode code) const {
  if (initialised_ && size_ > 1) MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code));
  std::_Exit(static_cast<int>(code));
}

std::unique_ptr<Communicator> MpiSession::make_host_communicator() const {
  return size_ == 1 ? make_single_communicator() : make_mpi_communicator();
}

}  // namespace swiattn
