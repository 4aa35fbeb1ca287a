#include "parallel/core_binding.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>

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
    for (const char* name : {kBound, kWish}) unsetenv(name);
  }

  static cpu_set_t cores() {
    cpu_set_t found;
    sched_getaffinity(0, sizeof found, &found);
    return found;
  }

  static constexpr const char* kBound = "OMPI_MCA_orte_bound_at_launch";
  static constexpr const char* kWish = "OMPI_MCA_hwloc_base_binding_policy";
  cpu_set_t all_{}, one_{};
};

TEST_F(CoreBindingTest, GivesARankThatMpirunBoundUnaskedAllCoresOfMpirun) {
  setenv(kBound, "1", 1);
  EXPECT_TRUE(undo_default_binding());
  const cpu_set_t found = cores();
  EXPECT_TRUE(CPU_EQUAL(&found, &all_));
}

TEST_F(CoreBindingTest, LeavesABindingThatAUserAskedForAndThatOfOthers) {
  EXPECT_FALSE(undo_default_binding());
  setenv(kBound, "1", 1);
  setenv(kWish, "core", 1);
  EXPECT_FALSE(undo_default_binding());
  const cpu_set_t found = cores();
  EXPECT_TRUE(CPU_EQUAL(&found, &one_));
}

}  // namespace
}  // namespace swiattn
