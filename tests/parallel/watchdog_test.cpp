#include "parallel/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>

namespace swiattn {
namespace {

using std::chrono::milliseconds;

TEST(WatchdogTest, AWaitThatOutlastsTheTimeoutIsReportedByName) {
  std::promise<std::string> reported;
  Watchdog watchdog(0.05, [&](const std::string& sentence) { reported.set_value(sentence); });
  const Watchdog::Watch watch(watchdog, "an all-reduce");
  auto report = reported.get_future();
  ASSERT_EQ(report.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_NE(report.get().find("an all-reduce"), std::string::npos);
}

TEST(WatchdogTest, WaitsThatEndInTimeAreNotReported) {
  std::atomic<int> reports = 0;
  {
    Watchdog watchdog(20.0, [&](const std::string&) { ++reports; });
    for (int i = 0; i < 1000; ++i) const Watchdog::Watch watch(watchdog, "a barrier");
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_EQ(reports, 0);
}

}  // namespace
}  // namespace swiattn
