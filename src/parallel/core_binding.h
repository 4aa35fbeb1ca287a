// The cores that the threads of a rank may run on.
#pragma once

#include <optional>

namespace swiattn {

// How many of the cores that mpirun may use there are for each rank of this host. Nothing where no
// mpirun of Open MPI has bound this process, or where its user has said how (--bind-to, --map-by).
//
// Unasked, Open MPI binds each of two ranks to a single core. But a rank has threads of its own
// that would take turns there: they load weights, read batches, talk to other ranks, compute on
// CPUs. So where this process is bound to fewer cores than its share, this thread, and those that
// it starts from now on, may run on all cores of mpirun.
std::optional<int> claim_share_of_cores();

}  // namespace swiattn
