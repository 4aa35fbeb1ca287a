#include "base/log.h"

#include <thread>
#include <vector>

#include "base/file_system.h"
#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

std::string console_of(int rank) {
  testing::internal::CaptureStderr();
  const auto log = make_console_log(rank);
  log->write(LogLevel::kDebug, "details");
  log->info("step {}", 1);
  log->warning("disk {} full", "90%");
  log->error("gone {{}}");
  return testing::internal::GetCapturedStderr();
}

TEST(ConsoleLog, ShowsInformationPlainlyAndNamesWarningsAndErrors) {
  EXPECT_EQ(console_of(0), "step 1\nwarning: disk 90% full\nerror: gone {}\n");
}

TEST(ConsoleLog, OtherRanksOnlyWarnAndSayWhoTheyAre) {
  EXPECT_EQ(console_of(3), "warning: [rank 3] disk 90% full\nerror: [rank 3] gone {}\n");
}

TEST(ConsoleLog, TheFileGetsEverythingFromTheMomentItIsAttached) {
  const TemporaryFolder folder;
  testing::internal::CaptureStderr();
  const auto log = make_console_log(1);
  log->info("too early");
  write_file(folder.file("run.log"), "an earlier run\n");
  log->attach_file(folder.file("run.log"));
  log->write(LogLevel::kDebug, "details");
  log->info("step");
  testing::internal::GetCapturedStderr();
  const std::string contents = read_file(folder.file("run.log"), ExitCode::kData);
  EXPECT_THAT(contents, MatchesRegex("an earlier run\n"
                                     "....-..-.. ..:..:..\\.... debug: \\[rank 1\\] details\n"
                                     "....-..-.. ..:..:..\\.... info: \\[rank 1\\] step\n"));
}

TEST(ConsoleLog, AFileThatCannotBeOpenedIsNamed) {
  const auto log = make_console_log(0);
  EXPECT_THAT(
      sentence_of(ExitCode::kConfiguration, [&] { log->attach_file("/proc/no/such/run.log"); }),
      HasSubstr("/proc/no/such/run.log"));
}

TEST(ConsoleLog, LinesOfSeveralThreadsDoNotMix) {
  const TemporaryFolder folder;
  const auto log = make_console_log(1);
  log->attach_file(folder.file("run.log"));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log] {
      for (int i = 0; i < 200; ++i) log->info("0123456789");
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::istringstream lines(read_file(folder.file("run.log"), ExitCode::kData));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_THAT(line, testing::EndsWith("info: [rank 1] 0123456789"));
  }
  EXPECT_EQ(count, 800);
}

}  // namespace
}  // namespace swiattn
