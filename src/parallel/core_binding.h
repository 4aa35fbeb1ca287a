// The cores that the threads of a rank may run on.
#pragma once

namespace swiattn {

// Open MPI binds each of two ranks to a core, and each of more to a NUMA domain, unless it is told
// where they belong (--bind-to, --map-by). But a rank has threads of its own that would take turns
// there: they load weights, read batches, talk to other ranks, compute on CPUs. Where nobody asked
// for the binding, and there are two cores or more for each rank of this host, this thread and
// those that it starts from now on may run on all cores that the launcher itself may use. Returns
// whether it was so.
bool undo_default_binding();

// How many cores this thread may run on.
int usable_cores();

}  // namespace swiattn
