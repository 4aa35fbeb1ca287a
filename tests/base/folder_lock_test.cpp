#include "base/folder_lock.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <thread>

#include "base/file_system.h"
#include "base/host.h"
#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using std::chrono::milliseconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

class FolderLockTest : public ::testing::Test {
 protected:
  std::unique_ptr<FolderLock> take(milliseconds patience = milliseconds(0)) {
    return std::make_unique<FolderLock>(folder_.path(), patience);
  }
  std::string refusal(milliseconds patience = milliseconds(0)) {
    return sentence_of(ExitCode::kConfiguration, [&] { take(patience); });
  }

  TemporaryFolder folder_;
};

TEST_F(FolderLockTest, RefusesASecondHolderNamingTheFirst) {
  const auto first = take();
  EXPECT_THAT(refusal(), AllOf(HasSubstr(folder_.path()),
                               HasSubstr(fmt::format("process {} on {}", getpid(), host_name()))));
}

TEST_F(FolderLockTest, TellsItsHolderWithoutTakingIt) {
  EXPECT_EQ(FolderLock::holder(folder_.path()), std::nullopt);
  auto first = take();
  const std::string process = fmt::format("process {} on {}", getpid(), host_name());
  EXPECT_EQ(FolderLock::holder(folder_.path()), process);
  first.reset();
  EXPECT_EQ(FolderLock::holder(folder_.path()), std::nullopt);
  EXPECT_NO_THROW(take());
}

TEST_F(FolderLockTest, IsFreeAgainWhenItsHolderIsGone) {
  take();
  EXPECT_NO_THROW(take());
}

TEST_F(FolderLockTest, WaitsForAHolderThatIsJustEnding) {
  auto first = take();
  std::thread ending([&] {
    std::this_thread::sleep_for(milliseconds(300));
    first.reset();
  });
  EXPECT_NO_THROW(take(milliseconds(5000)));
  ending.join();
}

TEST_F(FolderLockTest, GivesUpWaitingAfterItsPatience) {
  const auto first = take();
  const auto start = std::chrono::steady_clock::now();
  refusal(milliseconds(300));
  const auto waited = std::chrono::steady_clock::now() - start;
  EXPECT_GE(waited, milliseconds(300));
  EXPECT_LT(waited, milliseconds(3000));
}

TEST_F(FolderLockTest, OfAKilledProcessIsFree) {
  const pid_t child = fork();
  if (child == 0) {
    const auto held = take();
    write_file(folder_.file("held"), "");
    for (;;) pause();
  }
  while (!file_exists(folder_.file("held"))) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_THAT(refusal(), HasSubstr(std::to_string(child)));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_NO_THROW(take());
}

TEST_F(FolderLockTest, NeedsAFolder) {
  EXPECT_THROW(FolderLock(folder_.file("none"), milliseconds(0)), FileError);
}

}  // namespace
}  // namespace swiattn
