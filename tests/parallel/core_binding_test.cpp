#include "parallel/core_binding.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace swiattn {
namespace {

// Bound to one of the cores that the parent, for a rank its launcher, may use.
class CoreBindingTest : public testing::Test {
 protected:
  CoreBindingTest() {
    sched_getaffinity(getppid(), sizeof all_, &all_);
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (!CPU_ISSET(core, &all_)) continue;
      CPU_SET(core, &one_);
      break;
    }
    sched_setaffinity(0, sizeof one_, &one_);
  }
  ~CoreBindingTest() override {
    sched_setaffinity(0, sizeof all_, &all_);
    for (const char* name : {kBound, kWish, kRanks}) unsetenv(name);
  }

  static bool runs_on(const cpu_set_t& cores) {
    cpu_set_t found;
    sched_getaffinity(0, sizeof found, &found);
    return CPU_EQUAL(&found, &cores);
  }

  static constexpr const char* kBound = "OMPI_MCA_orte_bound_at_launch";
  static constexpr const char* kWish = "OMPI_MCA_hwloc_base_binding_policy";
  static constexpr const char* kRanks = "OMPI_COMM_WORLD_LOCAL_SIZE";
  cpu_set_t all_{}, one_{};
};

TEST_F(CoreBindingTest, GivesARankThatIsBoundUnaskedToLessThanItsShareAllCoresOfMpirun) {
  if (CPU_COUNT(&all_) < 2) GTEST_SKIP() << "one core";
  setenv(kBound, "1", 1);
  setenv(kRanks, "1", 1);
  EXPECT_EQ(claim_share_of_cores(), CPU_COUNT(&all_));
  EXPECT_TRUE(runs_on(all_));
}

TEST_F(CoreBindingTest, LeavesABindingToAsManyCoresAsThereAreForARank) {
  setenv(kBound, "1", 1);
  for (const int ranks : {CPU_COUNT(&all_), 1000}) {
    setenv(kRanks, std::to_string(ranks).c_str(), 1);
    EXPECT_EQ(claim_share_of_cores(), 1);
    EXPECT_TRUE(runs_on(one_));
  }
}

TEST_F(CoreBindingTest, LeavesABindingThatAUserAskedForAndThatOfOthers) {
  EXPECT_EQ(claim_share_of_cores(), std::nullopt);
  setenv(kBound, "1", 1);
  setenv(kRanks, "1", 1);
  setenv(kWish, "core", 1);
  EXPECT_EQ(claim_share_of_cores(), std::nullopt);
  EXPECT_TRUE(runs_on(one_));
}

}  // namespace
}  // namespace swiattn
