#include "parallel/mpi_session.h"

#include <ATen/Parallel.h>
#include <mpi.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <optional>

#include "parallel/core_binding.h"
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

// All of these may wait for ranks that will never come.
constexpr unsigned kPatienceAtTheStart = 300;  // seconds, for all ranks to be started
constexpr unsigned kPatienceAtTheEnd = 60;     // seconds, for the slowest rank to get there
constexpr unsigned kPatienceWithAbort = 10;    // seconds

void end_this_process_after(unsigned seconds) {
  std::signal(SIGALRM, SIG_DFL);
  ::alarm(seconds);
}

}  // namespace

MpiSession::MpiSession() {
  if (!started_by_launcher()) return;
  const std::optional<int> cores = claim_share_of_cores();
  int provided = 0;
  end_this_process_after(kPatienceAtTheStart);
  // The watchdog's thread calls MPI_Abort while the main one waits in a collective.
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  initialised_ = true;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size_), "MPI_Comm_size");
  MPI_Comm local = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &local),
            "MPI_Comm_split_type");
  check_mpi(MPI_Comm_rank(local, &local_rank_), "MPI_Comm_rank");
  MPI_Comm_free(&local);
  ::alarm(0);
  // OpenMP has counted the cores that this process was bound to.
  if (cores && std::getenv("OMP_NUM_THREADS") == nullptr) at::set_num_threads(*cores);
}

MpiSession::~MpiSession() {
  if (!initialised_ || !finished_) return;
  end_this_process_after(kPatienceAtTheEnd);
  MPI_Finalize();
  ::alarm(0);
}

void MpiSession::abort(ExitCode code) const {
  if (initialised_ && size_ > 1) {
    end_this_process_after(kPatienceWithAbort);
    MPI_Abort(MPI_COMM_WORLD, static_cast<int>(code));
  }
  std::_Exit(static_cast<int>(code));
}

std::unique_ptr<Communicator> MpiSession::make_host_communicator() const {
  return size_ == 1 ? make_single_communicator() : make_mpi_communicator();
}

}  // namespace swiattn
