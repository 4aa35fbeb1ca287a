// Steps of training with and without recordings, for comparisons: what they compute, and the
// weights that follow from it.
#pragma once

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "expected_micro_batch.h"
#include "model/captured_training.h"
#include "model/causal_lm.h"

namespace swiattn {

// Sequences cut into documents of up to `longest` tokens; 0: not cut.
inline HostTokens cut_tokens(int64_t sequences, int64_t length, int64_t longest, uint64_t seed) {
  HostTokens tokens = host_tokens(sequences, length, seed);
  std::mt19937_64 random(seed + 1);
  tokens.starts.clear();
  int64_t left = 0;  // of the document
  for (int64_t i = 0; i < sequences * length; ++i) {
    const bool starts = i % length == 0 || (longest > 0 && left == 0);
    if (starts) {
      tokens.starts.push_back(static_cast<int32_t>(i));
      left =
          1 + (longest > 0 ? static_cast<int64_t>(random() % static_cast<uint64_t>(longest)) : 0);
    }
    --left;
    const auto at = static_cast<size_t>(i);
    tokens.positions[at] = starts ? 0 : tokens.positions[at - 1] + 1;
  }
  tokens.starts.push_back(static_cast<int32_t>(sequences * length));
  return tokens;
}

using MicroBatches = std::vector<HostTokens>;  // of a step

// Steps of two sequences a micro-batch, no two of them alike.
inline std::vector<MicroBatches> cut_steps(int64_t steps, int64_t micro_batches, int64_t length,
                                           int64_t longest) {
  std::vector<MicroBatches> all(static_cast<size_t>(steps));
  uint64_t seed = 1;
  for (MicroBatches& step : all) {
    for (int64_t i = 0; i < micro_batches; ++i) {
      step.push_back(cut_tokens(2, length, longest, seed += 10));
    }
  }
  return all;
}

struct TrainedSteps {
  std::vector<at::Tensor> results;  // in order: losses, statistics, evaluations, gradients, weights
  int64_t replays = 0;
  std::vector<std::string> warnings;
};

// Descends along the gradient. Where `evaluates`, every step ends with an evaluation.
inline TrainedSteps train_steps(CausalLm& model, FlatParameters& parameters,
                                const std::vector<MicroBatches>& steps, bool captured,
                                bool evaluates = false) {
  TrainedSteps trained;
  CapturedTraining training(model, parameters,
                            [&](const std::string& why) { trained.warnings.push_back(why); });
  for (const MicroBatches& step : steps) {
    parameters.start_gradients();
    for (const HostTokens& tokens : step) {
      const MicroBatch batch = model.prepare(tokens.packed());
      const MicroBatchResult result = captured ? training.train(batch) : model.train(batch);
      trained.results.push_back(result.nll.clone());
      trained.results.push_back(result.statistics.clone());
    }
    parameters.finish_gradients();
    for (FlatUnit& unit : parameters.units()) {
      trained.results.push_back(unit.gradient.clone());
      unit.master.narrow(0, 0, unit.trainable_numel).sub_(unit.gradient, 1e-5);
    }
    parameters.refresh_compute_copies();
    if (!evaluates) continue;
    const MicroBatch batch = model.prepare(step.front().packed());
    trained.results.push_back(model.evaluate(batch, Branches::kTaken).nll);
  }
  for (const FlatUnit& unit : parameters.units()) trained.results.push_back(unit.master.clone());
  trained.replays = training.replays();
  return trained;
}

inline void expect_same_bits(const TrainedSteps& found, const TrainedSteps& expected) {
  ASSERT_EQ(found.results.size(), expected.results.size());
  for (size_t i = 0; i < expected.results.size(); ++i) {
    EXPECT_TRUE(at::equal(found.results[i], expected.results[i])) << "result " << i;
    EXPECT_TRUE(expected.results[i].isfinite().all().item<bool>()) << "result " << i;
  }
}

// Relative to the L2 norm of each result.
inline void expect_close(const TrainedSteps& found, const TrainedSteps& expected,
                         double tolerance) {
  ASSERT_EQ(found.results.size(), expected.results.size());
  for (size_t i = 0; i < expected.results.size(); ++i) {
    const at::Tensor exact = expected.results[i].to(at::kDouble);
    const double error = (found.results[i].to(at::kDouble) - exact).norm().item<double>();
    EXPECT_LE(error, tolerance * exact.norm().item<double>()) << "result " << i;
  }
}

// No recording was made, which was told once.
inline void expect_given_up(const TrainedSteps& found, const std::string& why) {
  EXPECT_EQ(found.replays, 0);
  ASSERT_EQ(found.warnings.size(), 1U);
  EXPECT_THAT(found.warnings[0], testing::HasSubstr("CUDA graphs are not used"));
  EXPECT_THAT(found.warnings[0], testing::HasSubstr(why));
}

}  // namespace swiattn
