#include "parallel/core_binding.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>

namespace swiattn {
namespace {

// Open MPI tells its ranks what it did, and what its user said.
bool is_bound_unasked() {
  for (const char* wish :
       {"OMPI_MCA_hwloc_base_binding_policy", "OMPI_MCA_rmaps_base_mapping_policy"}) {
    if (std::getenv(wish) != nullptr) return false;
  }
  return std::getenv("OMPI_MCA_orte_bound_at_launch") != nullptr;
}

}  // namespace

std::optional<int> claim_share_of_cores() {
  const char* ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  cpu_set_t bound, of_launcher;
  if (!is_bound_unasked() || ranks == nullptr || std::atoi(ranks) < 1 ||
      sched_getaffinity(0, sizeof bound, &bound) != 0 ||
      sched_getaffinity(getppid(), sizeof of_launcher, &of_launcher) != 0) {
    return std::nullopt;
  }
  const int share = CPU_COUNT(&of_launcher) / std::atoi(ranks);
  if (CPU_COUNT(&bound) < share) sched_setaffinity(0, sizeof of_launcher, &of_launcher);
  return std::max(1, share);
}

}  // namespace swiattn
