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
  const char* ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  cpu_set_t cores;
  return ranks != nullptr && sched_getaffinity(getppid(), sizeof cores, &cores) == 0 &&
         CPU_COUNT(&cores) >= 2 * std::atoi(ranks) &&
         sched_setaffinity(0, sizeof cores, &cores) == 0;
}

int usable_cores() {
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

}  // namespace swiattn
