#include "trainer/tensorboard_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/json.h"
#include "tests/base/fault_file_system.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Key;
using ::testing::Not;

template <class Number>
Number number_at(const std::string& bytes, size_t at) {
  Number value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// The payloads of a file, its framing checked.
std::vector<std::string> payloads_of(const std::string& path) {
  const std::string bytes = read_file(path, ExitCode::kInternal);
  std::vector<std::string> payloads;
  size_t at = 0;
  while (at < bytes.size()) {
    const auto length = number_at<uint64_t>(bytes, at);
    EXPECT_EQ(number_at<uint32_t>(bytes, at + 8), masked_crc32c(bytes.substr(at, 8)));
    payloads.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(number_at<uint32_t>(bytes, at + 12 + length), masked_crc32c(payloads.back()));
    at += 16 + length;
  }
  EXPECT_EQ(at, bytes.size());
  return payloads;
}

StepMetrics step_metrics(int64_t step) {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = 3.25 + static_cast<double>(step);
  metrics.learning_rate = 1e-4;
  metrics.full_ratio_by_layer = {0.25, 0.5};
  return metrics;
}

// Output of the script beside this file under the first python that has tensorboard, or "".
std::string read_with_tensorboard(const std::string& folder) {
  const char* dependencies = std::getenv("SWIATTN_DEPS");
  const char* home = std::getenv("HOME");
  const std::string venv = dependencies != nullptr
                               ? std::string(dependencies)
                               : std::string(home != nullptr ? home : "") + "/.cache/swiattn";
  for (const std::string& python : {venv + "/venv/bin/python", std::string("python3")}) {
    const std::string script =
        (std::filesystem::path(__FILE__).parent_path() / "read_events.py").string();
    FILE* pipe =
        popen(fmt::format("'{}' '{}' '{}' 2>/dev/null", python, script, folder).c_str(), "r");
    std::string output;
    char block[4096];
    for (size_t count; (count = fread(block, 1, sizeof block, pipe)) > 0;) {
      output.append(block, count);
    }
    if (pclose(pipe) == 0) return output;
  }
  return "";
}

class TensorboardWriterTest : public ::testing::Test {
 protected:
  std::string only_file() {
    const auto names = list_folder(path_, ExitCode::kInternal);
    EXPECT_EQ(names.size(), 1U);
    return path_ + "/" + names.at(0);
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.file("tensorboard");
  FaultFileSystem files_;
  RecordingLog log_;
};

TEST(MaskedCrc32c, HasThePublishedValues) {
  // RFC 3720 appendix B.4 gives the plain CRCs.
  const auto masked = [](uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; };
  EXPECT_EQ(masked_crc32c(std::string(32, '\0')), masked(0x8a9136aa));
  EXPECT_EQ(masked_crc32c(std::string(32, '\xff')), masked(0x62a8ab43));
  EXPECT_EQ(masked_crc32c("123456789"), masked(0xe3069283));
  EXPECT_EQ(masked_crc32c(""), masked(0));
}

TEST_F(TensorboardWriterTest, BeginsWithTheVersionOfTheFormatAndTheStepItStartsAt) {
  const TensorboardWriter writer(files_, path_, 0, log_);
  const auto payloads = payloads_of(only_file());
  ASSERT_EQ(payloads.size(), 2U);
  EXPECT_THAT(payloads[0], HasSubstr("brain.Event:2"));
  EXPECT_THAT(only_file(), HasSubstr("/events.out.tfevents."));
}

TEST_F(TensorboardWriterTest, ShowsEveryStepAtOnceInWholeRecords) {
  TensorboardWriter writer(files_, path_, 0, log_);
  for (int64_t step = 1; step <= 3; ++step) {
    writer.record(step_metrics(step));
    const auto payloads = payloads_of(only_file());
    ASSERT_EQ(payloads.size(), static_cast<size_t>(step) + 2);
    EXPECT_THAT(payloads.back(), HasSubstr("train/loss"));
    EXPECT_THAT(payloads.back(), HasSubstr("layers/full_ratio/02"));
  }
}

TEST_F(TensorboardWriterTest, LeavesOutWhatIsNotFinite) {
  TensorboardWriter writer(files_, path_, 0, log_);
  writer.record(step_metrics(1));
  EXPECT_THAT(payloads_of(only_file()).back(), Not(HasSubstr("train/regularizer")));
}

TEST_F(TensorboardWriterTest, StopsAfterATornRecordAndSaysSoOnce) {
  TensorboardWriter writer(files_, path_, 0, log_);
  files_.inject(1, FaultFileSystem::Fault::kShortWrite, ENOSPC);
  for (int64_t step = 1; step <= 3; ++step) writer.record(step_metrics(step));
  EXPECT_EQ(std::count(log_.warnings.begin(), log_.warnings.end(), '\n'), 1);
  EXPECT_EQ(files_.calls(), 1);
}

TEST_F(TensorboardWriterTest, ThatCannotBeginWarnsOnceAndLetsTheRunGoOn) {
  for (const int call : {1, 2}) {  // making the folder, creating the file
    log_.warnings.clear();
    files_.inject(call, FaultFileSystem::Fault::kLasting, ENOSPC);
    TensorboardWriter writer(files_, path_, 0, log_);
    for (int64_t step = 1; step <= 3; ++step) writer.record(step_metrics(step));
    EXPECT_EQ(std::count(log_.warnings.begin(), log_.warnings.end(), '\n'), 1) << call;
    EXPECT_EQ(files_.calls(), call);
  }
}

TEST_F(TensorboardWriterTest, ARunThatStartsAgainFromNothingReplacesWhatWasShown) {
  for (const int64_t steps : {5, 2}) {  // the first was killed before its first checkpoint
    TensorboardWriter writer(files_, path_, 0, log_);
    for (int64_t step = 1; step <= steps; ++step) writer.record(step_metrics(step));
  }
  const std::string output = read_with_tensorboard(path_);
  if (output.empty()) GTEST_SKIP() << "no python with the package tensorboard";
  const Json loss = Json::parse(output).at("train/loss");
  EXPECT_EQ(loss.size(), 2U) << loss;
}

TEST_F(TensorboardWriterTest, IsReadByTensorboardItselfAlsoAfterAResume) {
  {
    TensorboardWriter writer(files_, path_, 0, log_);
    for (int64_t step = 1; step <= 300; ++step) writer.record(step_metrics(step));
    writer.record(ValidationMetrics{300, "austen", 3.5, 33.0, 0.25});
  }
  {
    TensorboardWriter writer(files_, path_, 299, log_);
    StepMetrics metrics = step_metrics(300);
    metrics.loss = 7.5;
    writer.record(metrics);
  }
  const std::string output = read_with_tensorboard(path_);
  if (output.empty()) GTEST_SKIP() << "no python with the package tensorboard";
  const auto read = Json::parse(output).get<std::map<std::string, Json>>();
  EXPECT_THAT(read, Contains(Key("layers/full_ratio/01")));
  const Json& loss = read.at("train/loss");
  ASSERT_EQ(loss.size(), 300U);
  EXPECT_EQ(loss[0], Json({1, 4.25}));
  EXPECT_EQ(loss[298], Json({299, 302.25}));
  EXPECT_EQ(loss[299], Json({300, 7.5}));
  EXPECT_FLOAT_EQ(read.at("train/learning_rate")[0][1].get<float>(), 1e-4f);
  // The validation of the abandoned step 300 went with it.
  const auto validation = read.find("validation/austen/nll");
  EXPECT_TRUE(validation == read.end() || validation->second.empty());
}

}  // namespace
}  // namespace swiattn
