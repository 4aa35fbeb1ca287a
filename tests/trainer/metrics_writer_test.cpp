#include "trainer/metrics_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include "base/counter_random.h"
#include "base/json.h"
#include "tests/base/fault_file_system.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Fault = FaultFileSystem::Fault;

StepMetrics step_metrics(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 1.0 / static_cast<double>(step);
  return metrics;
}

ValidationMetrics validation_metrics(int64_t step) { return {step, "austen", 3.0, 20.1, 0.5}; }

std::vector<Json> lines_of(const std::string& path) {
  std::istringstream stream(read_file(path, ExitCode::kInternal));
  std::vector<Json> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
  return lines;
}

std::vector<int64_t> steps_of(const std::string& path) {
  std::vector<int64_t> steps;
  for (const Json& line : lines_of(path)) steps.push_back(line["step"]);
  return steps;
}

TEST(Metrics, HaveExactlyTheColumnsOfTheContract) {
  const auto keys = [](const std::string& line) {
    std::vector<std::string> names;
    const auto object = nlohmann::ordered_json::parse(line);
    for (const auto& [key, value] : object.items()) names.push_back(key);
    return names;
  };
  EXPECT_THAT(keys(to_json_line(StepMetrics())),
              ElementsAre("schema", "kind", "step", "tokens", "loss", "regularizer", "full_ratio",
                          "full_ratio_far", "full_ratio_by_layer", "gamma_mean",
                          "disagreement_mean", "router_logit_mean", "router_logit_std", "grad_norm",
                          "learning_rate", "step_seconds", "data_seconds", "tokens_per_second",
                          "mfu", "memory_gib", "skipped"));
  EXPECT_THAT(keys(to_json_line(ValidationMetrics())),
              ElementsAre("schema", "kind", "step", "name", "nll", "perplexity", "full_ratio"));
}

TEST(Metrics, GiveEveryScalarToAVisitorUnderItsName) {
  StepMetrics metrics = step_metrics(3);
  metrics.skipped = 2;
  const Json line = Json::parse(to_json_line(metrics));
  size_t count = 0;
  visit_scalars(metrics, [&](std::string_view name, double value) {
    ++count;
    ASSERT_TRUE(line.contains(std::string(name))) << name;
    const Json& written = line[std::string(name)];
    if (std::isnan(value)) {
      EXPECT_TRUE(written.is_null()) << name;
    } else {
      EXPECT_EQ(written.get<double>(), value) << name;
    }
  });
  EXPECT_EQ(count, line.size() - 5);  // all but schema, kind, step, tokens and the list
}

TEST(Metrics, ReadBackToTheSameBits) {
  std::vector<double> values = {0.1, -0.0, 5e-324, 1.7976931348623157e308, 1.0 / 3, 100, 1e22};
  for (uint64_t i = 0; i < 10000; ++i) {
    const double value = std::bit_cast<double>(counter_bits({i}));
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) {
    StepMetrics metrics = step_metrics(1);
    metrics.loss = value;
    metrics.full_ratio_by_layer = {value, 0.5};
    const Json line = Json::parse(to_json_line(metrics));
    EXPECT_EQ(std::bit_cast<uint64_t>(line["loss"].get<double>()), std::bit_cast<uint64_t>(value));
    EXPECT_EQ(line["full_ratio_by_layer"][0].get<double>(), value);
  }
}

TEST(Metrics, WriteNullForWhatIsNotFinite) {
  StepMetrics metrics = step_metrics(1);
  metrics.loss = std::numeric_limits<double>::infinity();
  metrics.grad_norm = std::nan("");
  metrics.full_ratio_by_layer = {0.5, std::nan("")};
  const Json line = Json::parse(to_json_line(metrics));
  EXPECT_TRUE(line["loss"].is_null());
  EXPECT_TRUE(line["grad_norm"].is_null());
  EXPECT_TRUE(line["full_ratio_by_layer"][1].is_null());
  EXPECT_EQ(to_json_line(metrics).find('\n'), to_json_line(metrics).size() - 1);
}

TEST(Metrics, WithANameThatIsNoUtf8AreStillJson) {
  ValidationMetrics metrics = validation_metrics(1);
  metrics.name = "a\xff\n\"b";
  EXPECT_TRUE(Json::parse(to_json_line(metrics)).is_object());
}

class MetricsWriterTest : public ::testing::Test {
 protected:
  MetricsWriter open(int64_t resumed_step) { return {files_, path_, resumed_step, log_}; }

  TemporaryFolder folder_;
  std::string path_ = folder_.file("metrics.jsonl");
  FaultFileSystem files_;
  RecordingLog log_;
};

TEST_F(MetricsWriterTest, ShowsEveryLineAtOnce) {
  MetricsWriter writer = open(0);
  for (int64_t step = 1; step <= 3; ++step) {
    writer.record(step_metrics(step));
    EXPECT_EQ(steps_of(path_).back(), step);
  }
  writer.record(validation_metrics(3));
  EXPECT_EQ(lines_of(path_).back()["kind"], "validation");
}

// Of the lines that stay: not of one torn by a power cut.
TEST_F(MetricsWriterTest, KnowsTheSetsThatAStepWasValidatedOn) {
  const auto set = [](int64_t step, const char* name) {
    return to_json_line(ValidationMetrics{step, name, 3.0, 20.0, 0.5});
  };
  std::string torn = set(2, "code");
  torn.pop_back();
  std::ofstream(path_) << set(1, "books") << set(1, "code")
                       << "{\"kind\": \"validation\", \"step\": 1, \"name\": 3}\n"
                       << "{\"kind\": 7, \"step\": 1}\n"
                       << set(2, "books") << torn;
  EXPECT_THAT(validated_sets(path_, 1), ElementsAre("books", "code"));
  EXPECT_THAT(validated_sets(path_, 2), ElementsAre("books"));
  EXPECT_THAT(validated_sets(path_, 3), IsEmpty());
  EXPECT_THAT(validated_sets("/nowhere/metrics.jsonl", 1), IsEmpty());
}

TEST_F(MetricsWriterTest, CutsBackToTheResumedStepAndGoesOn) {
  {
    MetricsWriter writer = open(0);
    writer.record(validation_metrics(0));
    for (int64_t step = 1; step <= 5; ++step) writer.record(step_metrics(step));
    writer.record(validation_metrics(5));
    writer.record(step_metrics(6));
  }
  {
    MetricsWriter writer = open(5);
    EXPECT_THAT(steps_of(path_), ElementsAre(0, 1, 2, 3, 4, 5, 5));
    writer.record(step_metrics(6));
  }
  open(2).record(step_metrics(3));
  EXPECT_THAT(steps_of(path_), ElementsAre(0, 1, 2, 3));
  open(-1);
  EXPECT_THAT(steps_of(path_), IsEmpty());
}

TEST_F(MetricsWriterTest, ResumedAtTheLastStepKeepsTheFileAsItIs) {
  { open(0).record(step_metrics(1)); }
  const std::string before = read_file(path_, ExitCode::kInternal);
  open(1);
  EXPECT_EQ(read_file(path_, ExitCode::kInternal), before);
}

TEST_F(MetricsWriterTest, RepairsALastLineTornAtAnyByte) {
  const std::string first = to_json_line(step_metrics(1));
  const std::string second = to_json_line(step_metrics(2));
  for (size_t size = 0; size < second.size(); ++size) {
    write_file(path_, first + second.substr(0, size));
    open(5).record(step_metrics(2));
    EXPECT_EQ(read_file(path_, ExitCode::kInternal), first + second) << size;
  }
}

TEST_F(MetricsWriterTest, CutsWhatAPowerCutLeftOfTheFile) {
  const std::string first = to_json_line(step_metrics(1));
  for (const std::string& rest : {std::string(100, '\0'), std::string("\n\n"), std::string("[1]\n"),
                                  std::string("{\"step\": \"2\"}\n"), std::string("{}\n"),
                                  std::string("{\"step\": 1.5}\n")}) {
    write_file(path_, first + rest);
    open(5);
    EXPECT_EQ(read_file(path_, ExitCode::kInternal), first) << rest;
  }
}

TEST_F(MetricsWriterTest, KeepsLinesInMemoryWhileTheDiskIsFull) {
  for (const Fault fault : {Fault::kOnce, Fault::kShortWrite, Fault::kLasting}) {
    std::filesystem::remove(path_);
    log_.warnings.clear();
    MetricsWriter writer = open(0);
    writer.record(step_metrics(1));
    files_.inject(1, fault, ENOSPC);
    for (int64_t step = 2; step <= 4; ++step) writer.record(step_metrics(step));
    files_.inject(0, Fault::kOnce);
    writer.record(step_metrics(5));
    EXPECT_THAT(steps_of(path_), ElementsAre(1, 2, 3, 4, 5));
    EXPECT_EQ(std::count(log_.warnings.begin(), log_.warnings.end(), '\n'), 1) << log_.warnings;
  }
}

TEST_F(MetricsWriterTest, SyncWritesWhatWaitsAndSurvivesAPowerCut) {
  MetricsWriter writer = open(0);
  files_.sync_folder(folder_.path());
  files_.inject(1, Fault::kShortWrite, ENOSPC);
  writer.record(step_metrics(1));
  files_.inject(0, Fault::kOnce);
  writer.sync();
  writer.record(step_metrics(2));
  files_.lose_unsynced(FaultFileSystem::Names::kLost);
  EXPECT_THAT(steps_of(path_), ElementsAre(1));
}

TEST_F(MetricsWriterTest, ThatCannotOpenItsFileSaysWhich) {
  std::filesystem::create_directory(path_);
  try {
    open(0);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_THAT(error.what(), HasSubstr(path_));
  }
}

}  // namespace
}  // namespace swiattn
