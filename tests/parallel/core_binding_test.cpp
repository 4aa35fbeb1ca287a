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

TEST_F(CoreBindingTest, GivesARankThatMpirunBoundUnaskedAllCoresOfMpirun) {
  if (CPU_COUNT(&all_) < 2) GTEST_SKIP() << "one core";
  setenv(kBound, "1", 1);
  setenv(kRanks, "1", 1);
  EXPECT_TRUE(undo_default_binding());
  EXPECT_TRUE(runs_on(all_));
  EXPECT_EQ(usable_cores(), CPU_COUNT(&all_));
}

TEST_F(CoreBindingTest, LeavesTheBindingWhereEachRankHasACoreAndNoMore) {
  setenv(kBound, "1", 1);
  setenv(kRanks, std::to_string(CPU_COUNT(&all_)).c_str(), 1);
  EXPECT_FALSE(undo_default_binding());
  EXPECT_TRUE(runs_on(one_));
}

TEST_F(CoreBindingTest, LeavesABindingThatAUserAskedForAndThatOfOthers) {
  EXPECT_FALSE(undo_default_binding());
  setenv(kBound, "1", 1);
  setenv(kRanks, "1", 1);
  setenv(kWish, "core", 1);
  EXPECT_FALSE(undo_default_binding());
  EXPECT_TRUE(runs_on(one_));
  EXPECT_EQ(usable_cores(), 1);
}

}  // namespace
}  // namespace swiattn
