// Tests that train on the same data several times, with and without what must change nothing.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trainer_run.h"

namespace swiattn {

constexpr int64_t kSteps = 12;
constexpr int64_t kBatch = 4;  // sequences of a step

// Where the configurations of these runs differ.
struct TrainerText {
  std::string compute = "bfloat16";
  int64_t window = 0;
  int64_t steps = kSteps;
  int64_t micro_batch = 1;

  // With validations every 5 steps, of 8 samples, and checkpoints every 7.
  std::string yaml() const {
    return fmt::format(
        "model: {{compute: {}}}\n"
        "attention: {{window: {}}}\n"
        "regularizer: {{gamma: 0.02}}\n"
        "train: {{steps: {}, global_batch: {}, micro_batch: {}}}\n"
        "optimizer: {{learning_rate: 1.0e-3}}\n"
        "schedule: {{warmup: 2}}\n"
        "validation: {{every: 5, batches: 2}}\n"
        "checkpoint: {{every: 7, keep_last: 2}}\n",
        compute, window, steps, kBatch, micro_batch);
  }
};

class TrainerFixture : public testing::Test {
 protected:
  // `overrides` are those of every training.
  TrainerFixture(const ModelConfig& model, const TrainerText& text, int64_t sequence_length,
                 const std::vector<int32_t>& tokens, c10::Device device,
                 std::vector<std::string> overrides = {})
      : run_(model, text.yaml(), sequence_length, tokens),
        device_(device),
        overrides_(std::move(overrides)) {}

  Transcript train(const std::string& name, size_t lag,
                   const std::vector<std::string>& overrides = {},
                   std::optional<OtherRank> other = {}) const {
    return run_.train(name, options(lag, overrides, std::move(other)));
  }

  // By CapturedTraining.
  Transcript replay(const std::string& name, size_t lag,
                    const std::vector<std::string>& overrides = {},
                    std::optional<OtherRank> other = {}) const {
    TrainerRun::Options replayed = options(lag, overrides, std::move(other));
    replayed.captured = true;
    return run_.train(name, replayed);
  }

  // Trains with and without lag and expects the same; returns what was told.
  Transcript same(const std::vector<std::string>& overrides = {},
                  const std::optional<OtherRank>& other = {}) const {
    const Transcript at_once = train("at_once", 0, overrides, other);
    Transcript later = train("later", 1, overrides, other);
    EXPECT_EQ(later.lines, at_once.lines);
    EXPECT_EQ(later.outcome, at_once.outcome);
    EXPECT_EQ(later.error, at_once.error);
    EXPECT_EQ(later.progress, at_once.progress);
    EXPECT_EQ(run_.checkpoint("later"), run_.checkpoint("at_once"));
    return later;
  }

  TrainerRun run_;

 private:
  TrainerRun::Options options(size_t lag, std::vector<std::string> overrides,
                              std::optional<OtherRank> other) const {
    overrides.insert(overrides.end(), overrides_.begin(), overrides_.end());
    return {.lag = lag,
            .device = device_,
            .overrides = std::move(overrides),
            .other = std::move(other)};
  }

  c10::Device device_;
  std::vector<std::string> overrides_;
};

}  // namespace swiattn
