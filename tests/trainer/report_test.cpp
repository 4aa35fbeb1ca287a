#include "trainer/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/json.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"
#include "trainer/metrics_writer.h"
#include "trainer/report_data.h"
#include "trainer/routing_csv.h"

namespace swiattn {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ReportTest : public ::testing::Test {
 protected:
  void record_run(int64_t steps, size_t layers = 3) {
    MetricsWriter writer(FileSystem::posix(), run_.file("metrics.jsonl"), 0, log_);
    for (int64_t step = 1; step <= steps; ++step) {
      StepMetrics m;
      m.step = step;
      m.tokens = step * 1000;
      m.loss = step == 2 ? std::nan("") : static_cast<double>(step);
      m.full_ratio_by_layer.assign(layers, 1.0 / static_cast<double>(step));
      writer.record(m);
    }
    writer.record(ValidationMetrics{steps, "austen </script><b>", 3, 20, 0.5});
  }
  std::string page(const ReportFacts& facts = {"A run", {{"Base model", "tiny"}}}) {
    write_report(FileSystem::posix(), run_.path(), facts);
    return read_file(run_.file("report.html"), ExitCode::kInternal);
  }
  // The data that the script of the page reads.
  static Json data_of(const std::string& page) {
    const std::string mark = "<script type=\"application/json\" id=\"data\">";
    const size_t begin = page.find(mark) + mark.size();
    return Json::parse(page.substr(begin, page.find("</script>", begin) - begin));
  }

  TemporaryFolder run_;
  RecordingLog log_;
};

TEST_F(ReportTest, ThinsLongRunsToMeansWithTheirRange) {
  record_run(6000);
  const auto data = collect_report_data(run_.path());
  EXPECT_EQ(data["steps"], 6000);
  EXPECT_EQ(data["tokens"], 6'000'000);
  ASSERT_EQ(data["x"].size(), 600U);
  EXPECT_EQ(data["x"][0], 10);
  EXPECT_EQ(data["x"][599], 6000);
  const auto& loss = data["series"]["loss"];
  EXPECT_DOUBLE_EQ(loss["mean"][0].get<double>(),
                   5.88889);  // of 1, 3, 4, …, 10: step 2 was skipped
  EXPECT_EQ(loss["low"][0], 1);
  EXPECT_EQ(loss["high"][0], 10);
  EXPECT_TRUE(data["series"]["mfu"]["mean"][0].is_null());
  EXPECT_TRUE(data["series"]["mfu"]["low"][0].is_null());
  EXPECT_EQ(data["layers"]["rows"].size(), 3U);
  EXPECT_EQ(data["layers"]["rows"][0].size(), 240U);
}

TEST_F(ReportTest, ShowsEveryStepOfAShortRun) {
  record_run(5);
  const auto data = collect_report_data(run_.path());
  EXPECT_EQ(data["x"], Json({1, 2, 3, 4, 5}));
  EXPECT_TRUE(data["series"]["loss"]["mean"][1].is_null());
}

TEST_F(ReportTest, HoldsValidationRoutingConfigurationAndEnvironment) {
  record_run(5);
  write_routing_csv(FileSystem::posix(), run_.file("routing"), 5,
                    {{1, 0.25, std::nan(""), 0, 0, 0, 0, 0}}, log_);
  write_file(run_.file("config.resolved.yaml"), "run: {}\n");
  write_file(run_.file("environment.json"), "{\"host\": \"node1\"}");
  const auto data = collect_report_data(run_.path());
  EXPECT_EQ(data["validation"][0]["name"], "austen </script><b>");
  EXPECT_EQ(data["validation"][0]["points"][0]["perplexity"], 20);
  EXPECT_EQ(data["routing"][0]["full_ratio"], 0.25);
  EXPECT_TRUE(data["routing"][0]["full_ratio_far"].is_null());
  EXPECT_EQ(data["config"], "run: {}\n");
  EXPECT_EQ(data["environment"]["host"], "node1");
}

TEST_F(ReportTest, LeavesOutDamagedLines) {
  record_run(3);
  std::string text = read_file(run_.file("metrics.jsonl"), ExitCode::kInternal);
  write_file(run_.file("metrics.jsonl"),
             "torn {\n[]\n{\"kind\": \"train\"}\n" + text + "{\"kind\"");
  write_file(run_.file("environment.json"), "not json");
  EXPECT_EQ(collect_report_data(run_.path())["x"].size(), 3U);
}

TEST_F(ReportTest, NeedsNothingOutsideItself) {
  record_run(50);
  const std::string text = page();
  for (const char* forbidden :
       {"src=", "http://", "https://", "@import", "url(", "<link", "fetch("}) {
    const size_t at = text.find(forbidden);
    const bool is_name_space = std::string(forbidden) == "http://" &&
                               text.compare(at, 26, "http://www.w3.org/2000/svg") == 0 &&
                               text.find("http://", at + 1) == std::string::npos;
    EXPECT_TRUE(at == std::string::npos || is_name_space) << forbidden;
  }
  for (const char* mark : {"{{title}}", "{{style}}", "{{script}}", "{{data}}"}) {
    EXPECT_THAT(text, Not(HasSubstr(mark)));
  }
}

TEST_F(ReportTest, CannotBeBrokenByTextOfUsers) {
  record_run(5);
  const std::string nasty = "</script><script>alert(1)</script><!-- {{data}} {{title}} \xff & <b>";
  write_file(run_.file("config.resolved.yaml"), nasty);
  const std::string text = page({nasty, {{nasty, nasty}}});
  EXPECT_THAT(text, Not(HasSubstr("<script>alert")));
  EXPECT_THAT(text, HasSubstr("<title>&lt;/script>"));
  const Json data = data_of(text);
  EXPECT_THAT(data["title"].get<std::string>(), HasSubstr("</script><script>alert(1)"));
  EXPECT_THAT(data["config"].get<std::string>(), HasSubstr("{{data}}"));
  EXPECT_EQ(data["x"].size(), 5U);
}

TEST_F(ReportTest, OfAnEmptyFolderIsStillAPage) {
  const Json data = data_of(page());
  EXPECT_EQ(data["steps"], 0);
  EXPECT_EQ(data["facts"][0], Json({"Base model", "tiny"}));
}

// With a browser at hand: the script runs to its end and draws.
TEST_F(ReportTest, DrawsItsCurvesInABrowser) {
  if (std::system("command -v chromium >/dev/null 2>&1") != 0) GTEST_SKIP() << "no chromium";
  for (const int64_t steps : {0, 1, 2, 700}) {
    std::filesystem::remove(run_.file("metrics.jsonl"));
    if (steps > 0) record_run(steps);
    page();
    const std::string command = fmt::format(
        "timeout 100 chromium --headless --no-sandbox --disable-gpu --dump-dom "
        "'file://{}' >'{}' 2>/dev/null",
        run_.file("report.html"), run_.file("dom.html"));
    ASSERT_EQ(std::system(command.c_str()), 0);
    const std::string dom = read_file(run_.file("dom.html"), ExitCode::kInternal);
    // The last statement before the drawing fills the footer; the drawing adds paths.
    EXPECT_THAT(dom, HasSubstr("All numbers are in metrics.jsonl beside this page."));
    EXPECT_EQ(dom.find("aria-label=\"Loss (nats a token)") != std::string::npos, steps > 0);
    EXPECT_EQ(dom.find("<path d=\"M") != std::string::npos, steps > 0) << steps;
    EXPECT_EQ(dom.find("Full-attention ratio of 3 layers") != std::string::npos, steps > 0);
    EXPECT_EQ(dom.find("data:image/png") != std::string::npos, steps > 0);
    EXPECT_THAT(dom.substr(0, dom.find("<script type=\"application/json\"")),
                Not(HasSubstr("NaN")));
  }
}

}  // namespace
}  // namespace swiattn
