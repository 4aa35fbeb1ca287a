// Promises about interrupted runs, on whole runs of swiattn-train: N steps, an interruption and N
// more steps give the bits of 2N steps, whatever interrupts, on one rank and on two.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <random>
#include <thread>

#include "base/file_system.h"
#include "base/json.h"
#include "resumable_run.h"

namespace swiattn {
namespace {

class ResumeTest : public testing::TestWithParam<int> {};

TEST_P(ResumeTest, StoppingAndResumingGivesTheSameBits) {
  const ResumableRun run(GetParam());
  const ProgramResult whole = run.train("whole");
  ASSERT_EQ(whole.code, 0) << whole.output;
  const std::string expected = run.outcome("whole");

  // Ended on purpose in the middle: the same schedule, fewer steps asked for by a signal at once.
  const std::string metrics = run.folder("stopped") + "/metrics.jsonl";
  const int code = run.stop_when(
      [&] { return file_exists(metrics) && !read_metrics(run.folder("stopped"), "train").empty(); },
      "stopped");
  if (read_metrics(run.folder("stopped"), "train").size() < kSteps) {
    EXPECT_EQ(code, 75);
  }
  const ProgramResult resumed = run.train("stopped");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(run.outcome("stopped"), expected);
}

// In validations, the last one too, and in what they have left to the next start.
TEST_P(ResumeTest, StoppingInValidationsGivesTheSameBits) {
  const ResumableRun run(GetParam());
  const std::string flags = "--validation.every=1 --validation.batches=20";  // most of the time
  ASSERT_EQ(run.train("whole", flags).code, 0);
  const std::string file = run.folder("stopped") + "/status.json";
  int64_t seen = 0;  // the step in whose validation the run is asked to stop
  const auto validates = [&](int64_t step) {
    if (!file_exists(file)) return false;
    const Json status = Json::parse(read_file(file, ExitCode::kData));
    seen = status["step"].get<int64_t>();
    return status["phase"] == "validation" && seen >= step;
  };
  int broken_off = 0;
  for (const int64_t step : {2, 2, 4, 4, 6, 8, 8, kSteps, kSteps}) {
    std::filesystem::remove(file);
    const int code = run.stop_when([&] { return validates(step); }, "stopped", flags);
    if (code == 0) break;  // it was too fast to be caught
    ASSERT_EQ(code, 75) << "in the validation of step " << step;
    const auto results = read_metrics(run.folder("stopped"), "validation");
    const bool has_result = !results.empty() && results.back().at("step") == seen;
    const bool trained_on = read_metrics(run.folder("stopped"), "train").back().at("step") != seen;
    if (!has_result && !trained_on) ++broken_off;
  }
  EXPECT_GT(broken_off, 0);
  EXPECT_EQ(run.train("stopped", flags).code, 0);
  EXPECT_EQ(run.outcome("stopped"), run.outcome("whole"));
}

TEST_P(ResumeTest, KillingTheRanksAtRandomMomentsGivesTheSameBits) {
  const ResumableRun run(GetParam());
  ASSERT_EQ(run.train("whole").code, 0);
  const std::string expected = run.outcome("whole");
  std::random_device device;
  const unsigned seed = device();
  SCOPED_TRACE(fmt::format("seed {}", seed));
  std::mt19937 random(seed);
  for (int trial = 0; trial < 4; ++trial) {
    const std::string name = fmt::format("killed-{}", trial);
    for (int kill_count = 0; kill_count < 2; ++kill_count) {
      const pid_t child = run.start(name);
      std::this_thread::sleep_for(std::chrono::milliseconds(300 + random() % 1500));
      run.kill_ranks();
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
    }
    const ProgramResult resumed = run.train(name);
    ASSERT_EQ(resumed.code, 0) << resumed.output;
    EXPECT_EQ(run.outcome(name), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ResumeTest, testing::Values(1, 2));

TEST(ResumeElsewhereTest, AnotherNumberOfRanksContinuesTheSameOrder) {
  const ResumableRun one(1);
  ASSERT_EQ(one.train("whole").code, 0);
  const auto expected = read_metrics(one.folder("whole"), "train");
  // The last three steps once more, on two ranks, from the checkpoint of step 9.
  const ProgramResult moved = run_command(
      "mpirun --allow-run-as-root --oversubscribe -np 2 " +
      one.command("moved", "--resume " + one.folder("whole") + "/checkpoints/step-00000009"));
  ASSERT_EQ(moved.code, 0) << moved.output;
  const auto lines = read_metrics(one.folder("moved"), "train");
  ASSERT_EQ(lines.size(), 3U);
  for (size_t i = 0; i < lines.size(); ++i) {
    const Json& before = expected[9 + i];
    EXPECT_EQ(lines[i].at("step"), before.at("step"));
    EXPECT_EQ(lines[i].at("tokens"), before.at("tokens"));
    const double loss = before.at("loss").get<double>();
    EXPECT_NEAR(lines[i].at("loss").get<double>(), loss, 1e-6 * loss);
  }
}

TEST(OneBadRankTest, AStoppedRankEndsTheOthersWithinTheTimeout) {
  const ResumableRun run(2);
  const std::string limits =
      " --parallel.timeout=2s --parallel.timeout_first=20s --train.steps=5000";
  const std::string log = run.folder("output");
  const std::string line =
      fmt::format("OMP_NUM_THREADS=1 timeout 60 {} >{} 2>&1", run.command("run", limits), log);
  std::thread program([&] {
    const ProgramResult result = run_command(line + "; echo $? >" + log + ".code");
    (void)result;
  });
  while (!file_exists(run.folder("run") + "/metrics.jsonl") ||
         read_metrics(run.folder("run"), "train").size() < 3) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  // The youngest of the processes is a rank, not the launcher.
  const auto start = std::chrono::steady_clock::now();
  run_command(fmt::format("pkill -STOP -n -f 'swiattn-train --device.*[{}]{}'",
                          run.root().substr(0, 1), run.root().substr(1)));
  program.join();
  const auto waited = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(read_file(log + ".code", ExitCode::kData), "5\n") << read_file(log, ExitCode::kData);
  EXPECT_LT(waited, std::chrono::seconds(40));
  run_command(fmt::format("pkill -KILL -f 'swiattn-train --device.*[{}]{}'",
                          run.root().substr(0, 1), run.root().substr(1)));
}

}  // namespace
}  // namespace swiattn
