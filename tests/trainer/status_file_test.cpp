#include "trainer/status_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "base/json.h"
#include "tests/base/fault_file_system.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::MatchesRegex;

class StatusFileTest : public ::testing::Test {
 protected:
  Json read() { return Json::parse(read_file(path_, ExitCode::kInternal)); }

  TemporaryFolder folder_;
  std::string path_ = folder_.file("status.json");
  FaultFileSystem files_;
};

TEST_F(StatusFileTest, TellsStepPhaseTimeAndError) {
  StatusFile status(files_, path_);
  status.update(12, "train");
  EXPECT_EQ(read()["step"], 12);
  EXPECT_EQ(read()["phase"], "train");
  EXPECT_TRUE(read()["last_error"].is_null());
  EXPECT_THAT(read()["time"].get<std::string>(), MatchesRegex("20..-..-..T..:..:..Z"));
  status.report_error("The disk is full.");
  EXPECT_EQ(read()["last_error"], "The disk is full.");
  status.update(13, "save");
  EXPECT_EQ(read()["last_error"], "The disk is full.");
  EXPECT_THAT(list_folder(folder_.path(), ExitCode::kInternal), ElementsAre("status.json"));
}

TEST_F(StatusFileTest, WritesAStepAtMostOnceASecondAndAPhaseAtOnce) {
  StatusFile status(files_, path_);
  status.update(1, "train");
  const int calls = files_.calls();
  for (int64_t step = 2; step < 100; ++step) status.update(step, "train");
  EXPECT_LE(files_.calls(), 2 * calls);
  status.update(100, "validate");
  EXPECT_EQ(read()["step"], 100);
  EXPECT_EQ(read()["phase"], "validate");
  std::this_thread::sleep_for(std::chrono::milliseconds(1050));
  status.update(101, "validate");
  EXPECT_EQ(read()["step"], 101);
}

TEST_F(StatusFileTest, IsWholeWhateverFailsAndNeverThrows) {
  for (int call = 1; call <= 4; ++call) {
    for (const auto fault :
         {FaultFileSystem::Fault::kLasting, FaultFileSystem::Fault::kShortWrite}) {
      StatusFile status(files_, path_);
      status.update(1, "train");
      files_.inject(call, fault, ENOSPC);
      EXPECT_NO_THROW(status.update(2, "save"));
      files_.inject(0, FaultFileSystem::Fault::kOnce);
      EXPECT_TRUE(read()["step"] == 1 || read()["step"] == 2);
    }
  }
}

TEST_F(StatusFileTest, TakesAnErrorThatIsNoUtf8) {
  StatusFile status(files_, path_);
  status.report_error("bad \xff byte");
  EXPECT_TRUE(read()["last_error"].is_string());
}

}  // namespace
}  // namespace swiattn
