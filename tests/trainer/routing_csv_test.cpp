#include "trainer/routing_csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "tests/base/fault_file_system.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RoutingCsvTest : public ::testing::Test {
 protected:
  void write(int64_t step, const std::vector<RoutingRow>& rows) {
    write_routing_csv(files_, path_, step, rows, log_);
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.file("routing");
  FaultFileSystem files_;
  RecordingLog log_;
};

TEST_F(RoutingCsvTest, HasARowALayerUnderItsHeader) {
  write(100, {{1, 0.5, std::nan(""), -0.25, 1, 0.5, 1e-4, 0.001}, {2, 0, 0, 0, 0, 0, 0, 0}});
  EXPECT_EQ(read_file(path_ + "/step-00000100.csv", ExitCode::kInternal),
            "layer,full_ratio,full_ratio_far,logit_mean,logit_std,entropy,gamma_mean,"
            "disagreement_mean\n"
            "1,0.5,nan,-0.25,1,0.5,0.0001,0.001\n"
            "2,0,0,0,0,0,0,0\n");
}

TEST_F(RoutingCsvTest, ReadsBackExactlyTheLatest) {
  write(100, {{1, 0.5, 0.5, 0, 0, 0, 0, 0}});
  write(200, {{7, 1.0 / 3, std::nan(""), -1e-300, 0.1, 2e10, 5, 6}});
  const auto rows = read_latest_routing_csv(path_);
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].layer, 7);
  EXPECT_EQ(rows[0].full_ratio, 1.0 / 3);
  EXPECT_TRUE(std::isnan(rows[0].full_ratio_far));
  EXPECT_EQ(rows[0].logit_mean, -1e-300);
  EXPECT_EQ(rows[0].disagreement_mean, 6);
}

TEST_F(RoutingCsvTest, OfARunWithoutAnyIsEmpty) {
  EXPECT_THAT(read_latest_routing_csv(path_), IsEmpty());
  std::filesystem::create_directory(path_);
  write_file(path_ + "/notes.csv", "x");
  write_file(path_ + "/step-1.csv", "x");
  EXPECT_THAT(read_latest_routing_csv(path_), IsEmpty());
}

TEST_F(RoutingCsvTest, ThatIsDamagedIsRefusedByFileAndLine) {
  write(1, {{1, 0.5, 0.5, 0, 0, 0, 0, 0}});
  const std::string file = path_ + "/step-00000001.csv";
  const std::string good = read_file(file, ExitCode::kInternal);
  for (const std::string& bad : {good + "1,2\n", good + "1,2,3,4,5,6,7,8,9\n", good + "\n",
                                 good + "1,2,3,x,5,6,7,8\n", good + "1,2,3,4,5,6,7,8x\n"}) {
    write_file(file, bad);
    try {
      read_latest_routing_csv(path_);
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("step-00000001.csv:3"));
    }
  }
  write_file(file, "other\n");
  EXPECT_THROW(read_latest_routing_csv(path_), Error);
}

TEST_F(RoutingCsvTest, IsCutBackToTheResumedStep) {
  cut_routing_back(files_, path_, 100);
  for (const int64_t step : {100, 200, 300}) write(step, {});
  write_file(path_ + "/notes.csv", "x");
  cut_routing_back(files_, path_, 200);
  EXPECT_THAT(list_folder(path_, ExitCode::kInternal),
              ElementsAre("notes.csv", "step-00000100.csv", "step-00000200.csv"));
}

TEST_F(RoutingCsvTest, OnAFullDiskIsOnlyAWarning) {
  files_.inject(1, FaultFileSystem::Fault::kLasting, ENOSPC);
  EXPECT_NO_THROW(write(1, {}));
  EXPECT_THAT(log_.warnings, HasSubstr("routing of step 1"));
}

}  // namespace
}  // namespace swiattn
