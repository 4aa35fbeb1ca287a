#include "trainer/run_result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "../base/temporary_folder.h"

namespace swiattn {
namespace {

TEST(RunResultTest, IsTheLastStepAndTheLastOfEveryValidationSet) {
  const TemporaryFolder folder;
  const std::string path = folder.file("metrics.jsonl");
  StepMetrics step;
  step.full_ratio = 0.5;
  step.full_ratio_by_layer = {0.4, 0.6};
  StepMetrics last = step;
  last.full_ratio = 0.25;
  last.full_ratio_by_layer = {0.125, 0.375};
  std::ofstream(path) << to_json_line(step)
                      << to_json_line(ValidationMetrics{1, "books", 3.0, 20.0, 0.5})
                      << to_json_line(ValidationMetrics{1, "code", 2.0, 7.0, 0.5})
                      << "{\"kind\": \"train\", \"full_ra\n"
                      << to_json_line(last)
                      << to_json_line(ValidationMetrics{2, "books", 2.5, 12.0, 0.25});
  const RunResult result = read_run_result(path);
  EXPECT_EQ(result.full_ratio, 0.25);
  EXPECT_THAT(result.full_ratio_by_layer, testing::ElementsAre(0.125, 0.375));
  ASSERT_EQ(result.validation.size(), 2);
  EXPECT_EQ(result.validation[0].name, "books");
  EXPECT_EQ(result.validation[0].nll, 2.5);
  EXPECT_EQ(result.validation[1].name, "code");
  EXPECT_EQ(result.validation[1].nll, 2.0);
}

TEST(RunResultTest, IsEmptyWithoutAFile) {
  const RunResult result = read_run_result("/nowhere/metrics.jsonl");
  EXPECT_EQ(result.full_ratio, std::nullopt);
  EXPECT_TRUE(result.full_ratio_by_layer.empty());
  EXPECT_TRUE(result.validation.empty());
}

}  // namespace
}  // namespace swiattn
