// The process's membership in an mpirun, begun and ended once by main.
#pragma once

#include <memory>

#include "base/error.h"
#include "parallel/communicator.h"

namespace swiattn {

// Initialises MPI when this process was started by a launcher (mpirun, srun), and is a world of one
// otherwise, so that a plain start needs no MPI runtime. Ranks of Open MPI compute with as many
// threads as there are cores for each, unless their user has said otherwise (core_binding.h).
// Finalizes in the destructor only when finish() said that all ranks arrived there: after an
// exception MPI_Finalize can block for ever.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this host

  // All ranks are about to leave in good order.
  void finish() { finished_ = true; }
  // Leaves at once with this code and takes the other ranks down. Does not return.
  [[noreturn]] void abort(ExitCode code) const;

  // CPU ranks: MPI; one rank: no communication at all.
  std::unique_ptr<Communicator> make_host_communicator() const;

 private:
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  bool initialised_ = false;
  bool finished_ = false;
};

}  // namespace swiattn
