// log.profile on a GPU: the kernels are there, with their phases; and what it shows of a step: that
// the GPU is not made to wait for the host.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <vector>

#include "../base/temporary_folder.h"
#include "../model/small_models.h"
#include "base/file_system.h"
#include "small_run.h"

namespace swiattn {
namespace {

constexpr int64_t kProfiled = 3;

class GpuProfileTest : public testing::Test {
 protected:
  GpuProfileTest() {
    ModelConfig config = small_config(Architecture::kLlama);
    config.hidden_size = 256;
    config.intermediate_size = 512;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_dim = 64;
    write_model_folder(root() + "/base", config, random_weights(config, false, 5));
    write_flat_shard(root() + "/tokens.bin", random_documents(100'000, config.vocab_size, 6));
    std::ofstream(root() + "/run.yaml") << fmt::format(
        "run: {{folder: {0}/run}}\n"
        "model: {{init_from: {0}/base}}\n"
        "attention: {{window: 128}}\n"
        "data: {{sequence_length: 1K, sources: [{{path: {0}/tokens.bin, eos_id: 60}}]}}\n"
        "train: {{steps: 10, global_batch: 8, micro_batch: 4}}\n"
        "schedule: {{warmup: 2}}\n"
        "log: {{profile: {{start: 6, steps: {1}}}}}\n",
        root(), kProfiled);
  }

  std::string root() const { return folder_.path(); }

  ProgramResult train(const std::string& name, const std::string& flags) const {
    return run_command(
        fmt::format("{}/swiattn-train --device cuda --config {}/run.yaml --run.folder={}/{} {}",
                    SWIATTN_PROGRAMS, root(), root(), name, flags));
  }
  Json read_json(const std::string& file) const {
    const std::string path = root() + "/" + file;
    return parse_json(read_file(path, ExitCode::kData), path, ExitCode::kData);
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(GpuProfileTest, ListsTheKernelsOfTheProfiledSteps) {
  const ProgramResult result = train("run", "");
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_EQ(result.output.find("has lost kernels"), std::string::npos) << result.output;
  const Json json = read_json("run/profile/kernels.json");
  EXPECT_EQ(json.at("on_gpu"), true);
  EXPECT_EQ(json.at("steps"), kProfiled);

  // Our own kernels and the library's are both there, each a whole number of times a step.
  std::set<std::string> found;
  double shares = 0.0, milliseconds = 0.0;
  for (const Json& row : json.at("kernels")) {
    const auto name = row.at("full_name").get<std::string>();
    for (const char* part : {"AdamWUpdate", "RmsNorm", "gemm", "nvjet", "xmma", "cutlass"}) {
      if (name.find(part) != std::string::npos) found.insert(part);
    }
    const double calls = row.at("calls").get<double>();
    EXPECT_GT(calls, 0.0);
    if (name.find("AdamWUpdate") != std::string::npos) {
      EXPECT_EQ(calls, std::round(calls)) << name;
    }
    EXPECT_GT(row.at("mean_microseconds").get<double>(), 0.0) << name;
    EXPECT_LT(row.at("mean_microseconds").get<double>(), 1e5) << name;
    shares += row.at("share").get<double>();
    milliseconds += row.at("milliseconds").get<double>();
  }
  EXPECT_TRUE(found.contains("AdamWUpdate"));
  EXPECT_TRUE(found.contains("RmsNorm"));
  EXPECT_TRUE(found.contains("gemm") || found.contains("nvjet") || found.contains("xmma") ||
              found.contains("cutlass"));
  EXPECT_NEAR(shares, 1.0, 1e-6);
  EXPECT_GT(milliseconds, 0.0);
  EXPECT_LT(milliseconds, 1.05 * json.at("step_milliseconds").get<double>());
}

TEST_F(GpuProfileTest, KnowsThePhaseOfEveryKernel) {
  const ProgramResult result = train("run", "");
  ASSERT_EQ(result.code, 0) << result.output;
  const Json json = read_json("run/profile/kernels.json");
  double sum = json.at("idle_share").get<double>();
  EXPECT_GE(sum, 0.0);
  EXPECT_LT(sum, 1.0);
  std::map<std::string, double> gpu;
  double busy = 0.0;
  for (const Json& phase : json.at("phases")) {
    gpu[phase.at("name")] = phase.at("gpu_milliseconds").get<double>();
    busy += gpu[phase.at("name")];
    sum += phase.at("share").get<double>();
  }
  EXPECT_NEAR(sum, 1.0, 1e-6);
  for (const char* name :
       {"data", "forward", "head and loss", "backward", "optimizer", "read-back"}) {
    EXPECT_GT(gpu[name], 0.0) << name;
  }
  EXPECT_EQ(gpu["reduce"], 0.0);  // one rank
  EXPECT_GT(gpu["backward"], gpu["forward"]);
  EXPECT_LT(gpu["other"], 0.05 * busy);
}

TEST_F(GpuProfileTest, TheTraceHasRangesAndKernelsOfTheseStepsOnly) {
  const ProgramResult result = train("run", "");
  ASSERT_EQ(result.code, 0) << result.output;
  int64_t kernels = 0;
  std::set<std::string> steps;
  const Json trace = read_json("run/profile/trace.json");
  for (const Json& event : trace.at("traceEvents")) {
    if (!event.contains("cat")) continue;
    const auto category = event.at("cat").get<std::string>();
    const auto name = event.at("name").get<std::string>();
    if (category == "kernel") ++kernels;
    if (category == "user_annotation" && name.starts_with("step ")) steps.insert(name);
  }
  EXPECT_EQ(steps, (std::set<std::string>{"step 6", "step 7", "step 8"}));
  double calls = 0.0;
  const Json table = read_json("run/profile/kernels.json");
  for (const Json& row : table.at("kernels")) {
    const auto name = row.at("full_name").get<std::string>();
    if (!name.starts_with("Mem")) calls += row.at("calls").get<double>();
  }
  EXPECT_NEAR(static_cast<double>(kernels), calls * kProfiled, 0.5);
}

// With documents that have far keys, as many in every micro-batch up to a power of two, so that no
// plan is new; and with whole samples, which other kernels compute.
TEST_F(GpuProfileTest, AStepWaitsOnceAndAllocatesNothing) {
  std::vector<int32_t> tokens = random_documents(100'000, 61, 6);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i % 200 == 199 ? 60 : tokens[i] % 60;
  write_flat_shard(root() + "/tokens.bin", tokens);
  for (const bool masked : {true, false}) {
    const std::string name = masked ? "masked" : "whole";
    const ProgramResult result = train(name, fmt::format("--attention.mask_documents={}", masked));
    ASSERT_EQ(result.code, 0) << result.output;
    const Json trace = read_json(name + "/profile/trace.json");
    struct Span {
      double begin, end;
    };
    std::vector<Span> steps;
    for (const Json& event : trace.at("traceEvents")) {
      if (!event.contains("cat") || event.at("cat") != "user_annotation") continue;
      if (!event.at("name").get<std::string>().starts_with("step ")) continue;
      const auto begin = event.at("ts").get<double>();
      steps.push_back({begin, begin + event.at("dur").get<double>()});
    }
    ASSERT_EQ(steps.size(), static_cast<size_t>(kProfiled));
    std::map<std::string, int64_t> calls;  // of CUDA, in the steps
    for (const Json& event : trace.at("traceEvents")) {
      if (!event.contains("cat") || !event.contains("ts")) continue;
      const auto category = event.at("cat").get<std::string>();
      const bool call = category == "cuda_runtime" || category == "cuda_driver";
      if (!call && category != "gpu_memcpy") continue;
      const auto begin = event.at("ts").get<double>();
      const bool in_a_step = std::any_of(steps.begin(), steps.end(), [&](const Span& step) {
        return step.begin <= begin && begin < step.end;
      });
      if (in_a_step) ++calls[event.at("name").get<std::string>()];
    }
    int64_t waits = 0, allocations = 0;
    for (const auto& [call, count] : calls) {
      std::cout << fmt::format("{}: {:.1f} {} a step\n", name,
                               static_cast<double>(count) / kProfiled, call);
      if (call.find("Synchronize") != std::string::npos || call == "cudaMemcpy") waits += count;
      if (call.find("Malloc") != std::string::npos || call.find("Free") != std::string::npos ||
          call.find("Alloc") != std::string::npos) {
        allocations += count;
      }
      EXPECT_EQ(call.find("Pageable"), std::string::npos) << call;
    }
    // For its results, when the next one is on the GPU already; the last one's within itself, since
    // the profile is written then.
    EXPECT_LE(waits, kProfiled);
    EXPECT_GT(waits, 0);  // the trace does show them
    EXPECT_EQ(allocations, 0);
  }
}

TEST_F(GpuProfileTest, ChangesNoNumberOfADeterministicRun) {
  const std::string flags = "--numerics.deterministic=true ";
  ASSERT_EQ(train("with", flags).code, 0);
  ASSERT_EQ(train("without", flags + "--log.profile=null").code, 0);
  const auto losses = [&](const std::string& name) {
    std::vector<std::string> lines;
    for (const Json& line : read_metrics(root() + "/" + name, "train")) {
      lines.push_back(line.at("loss").dump() + " " + line.at("grad_norm").dump());
    }
    return lines;
  };
  EXPECT_EQ(losses("with"), losses("without"));
}

}  // namespace
}  // namespace swiattn
