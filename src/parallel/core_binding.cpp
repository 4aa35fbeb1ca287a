#include "parallel/core_binding.h"

#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <initializer_list>

namespace swiattn {

bool undo_default_binding() {
  // Open MPI tells its ranks what it did, and what its user said.
  if (std::getenv("OMPI_MCA_orte_bound_at_launch") == nullptr) return false;
  for (const char* wish :
       {"OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_rmaps_base_mapping_policy"}) {
    if (std::getenv(wish) != nullptr) return false;
  }
  cpu_set_t cores;
  return sched_getaffinity(getppid(), sizeof cores, &cores) == 0 &&
         sched_setaffinity(0, sizeof cores, &cores) == 0;
}

}  // namespace swiattn
