// Promises about interrupted runs, on whole runs of swiattn-train: N steps, an interruption and N
// more steps give the bits of 2N steps, whatever interrupts, on one rank and on two.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "../base/temporary_folder.h"
#include "../checkpoint/newer_format.h"
#include "../model/small_models.h"
#include "base/file_system.h"
#include "base/hash.h"
#include "small_run.h"

namespace swiattn {
namespace {

constexpr int kSteps = 12;

// A small model and data in `root`, and the command that trains it there.
class SmallRun {
 public:
  explicit SmallRun(int ranks) : ranks_(ranks) {
    const ModelConfig config = small_config(Architecture::kLlama);
    write_model_folder(root() + "/base", config, random_weights(config, false, 5));
    write_flat_shard(root() + "/tokens.bin", random_documents(3000, config.vocab_size, 6));
    std::ofstream(root() + "/run.yaml") << fmt::format(
        "run: {{folder: {0}/run}}\n"
        "model: {{init_from: {0}/base, compute: float32}}\n"
        "attention: {{window: 8}}\n"
        "regularizer: {{gamma: 0.02}}\n"
        "data: {{sequence_length: 32, sources: [{{path: {0}/tokens.bin, eos_id: 60}}],\n"
        "       validation: [{{name: held, path: {0}/tokens.bin, eos_id: 60}}]}}\n"
        "train: {{steps: {1}, global_batch: 4}}\n"
        "optimizer: {{learning_rate: 1.0e-3}}\n"
        "schedule: {{warmup: 2}}\n"
        "validation: {{every: 4, batches: 2}}\n"
        "checkpoint: {{every: 3, keep_last: 2}}\n",
        root(), kSteps);
  }

  std::string root() const { return folder_.path(); }
  std::string folder(const std::string& name) const { return root() + "/" + name; }

  std::string command(const std::string& name, const std::string& flags = "") const {
    const std::string launcher =
        ranks_ == 1 ? ""
                    : fmt::format("mpirun --allow-run-as-root --oversubscribe -np {} ", ranks_);
    return fmt::format("{}{}/swiattn-train --device cpu --config {}/run.yaml --run.folder={} {}",
                       launcher, SWIATTN_PROGRAMS, root(), folder(name), flags);
  }
  ProgramResult train(const std::string& name, const std::string& flags = "") const {
    return run_command(command(name, flags));
  }

  // Starts the run in a process group of its own and returns its process id.
  pid_t start(const std::string& name) const {
    const std::string line = "OMP_NUM_THREADS=1 exec " + command(name) + " >/dev/null 2>&1";
    const pid_t child = fork();
    if (child == 0) {
      setpgid(0, 0);
      execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
      _exit(127);
    }
    return child;
  }

  // Losses of all steps, validation included, and the hash of the weights: what must be equal.
  std::string outcome(const std::string& name) const {
    std::string text;
    for (const Json& line : read_metrics(folder(name), "train")) {
      text += fmt::format("{} {} {} {}\n", line.at("step").dump(), line.at("loss").dump(),
                          line.at("grad_norm").dump(), line.at("full_ratio_by_layer").dump());
    }
    for (const Json& line : read_metrics(folder(name), "validation")) {
      text += fmt::format("{} {}\n", line.at("step").dump(), line.at("nll").dump());
    }
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      const std::string path =
          fmt::format("{}/checkpoints/step-{:08}/{}", folder(name), kSteps, file);
      text += format_hash(hash_text(read_file(path, ExitCode::kCheckpoint))) + "\n";
    }
    const std::string exported = folder(name) + "/hybrid/model.safetensors";
    return text + format_hash(hash_text(read_file(exported, ExitCode::kCheckpoint)));
  }

  // SIGKILL to every rank; waits until they are gone. The brackets keep the pattern from matching
  // the shell that carries it.
  void kill_ranks() const {
    const std::string pattern = fmt::format("'[s]wiattn-train --device.*{}'", root());
    run_command("pkill -KILL -f " + pattern);
    while (run_command("pgrep -f " + pattern).code == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }

 private:
  int ranks_;
  TemporaryFolder folder_;
};

class ResumeTest : public testing::TestWithParam<int> {};

TEST_P(ResumeTest, StoppingAndResumingGivesTheSameBits) {
  const SmallRun run(GetParam());
  const ProgramResult whole = run.train("whole");
  ASSERT_EQ(whole.code, 0) << whole.output;
  const std::string expected = run.outcome("whole");

  // Ended on purpose in the middle: the same schedule, fewer steps asked for by a signal at once.
  const pid_t child = run.start("stopped");
  const std::string metrics = run.folder("stopped") + "/metrics.jsonl";
  while (!file_exists(metrics) || read_metrics(run.folder("stopped"), "train").empty()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  // SIGUSR1 goes through mpirun to every rank.
  kill(child, SIGUSR1);
  int status = 0;
  waitpid(child, &status, 0);
  const size_t steps = read_metrics(run.folder("stopped"), "train").size();
  if (steps < kSteps) {
    EXPECT_EQ(WEXITSTATUS(status), 75);
  }
  const ProgramResult resumed = run.train("stopped");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(run.outcome("stopped"), expected);
}

TEST_P(ResumeTest, KillingTheRanksAtRandomMomentsGivesTheSameBits) {
  const SmallRun run(GetParam());
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
  const SmallRun one(1);
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

TEST(ResumeRulesTest, AChangeOfTheMathematicsIsRefusedByName) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const ProgramResult refused = run.train("run", "--attention.window=4");
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.output.find("attention.window"), std::string::npos) << refused.output;
  EXPECT_NE(refused.output.find("--allow-change"), std::string::npos) << refused.output;
  const ProgramResult misspelt = run.train("run", "--allow-change attention.windw");
  EXPECT_EQ(misspelt.code, 2);
  EXPECT_NE(misspelt.output.find("attention.windw: there is no such key"), std::string::npos);
}

TEST(ResumeRulesTest, AllChangesOfTheMathematicsAreNamedTogether) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string flags =
      "--attention.window=4 --optimizer.weight_decay=0.2 --log.every=2 "
      "'--model.rope_scaling={type: linear, factor: 2}' ";
  const ProgramResult refused = run.train("run", flags + "--allow-change optimizer.weight_decay");
  EXPECT_EQ(refused.code, 2);
  for (const char* words :
       {"; attention.window was 8 and is 4 now. Set that back",
        "model.rope_scaling was null and is ",
        "; --allow-change attention.window accepts a change. model.rope_scaling is part of the "
        "model, and --allow-change does not reach it."}) {
    EXPECT_NE(refused.output.find(words), std::string::npos) << words << " in " << refused.output;
  }
  for (const char* words : {"weight_decay", "log.every"}) {
    EXPECT_EQ(refused.output.find(words), std::string::npos) << words << " in " << refused.output;
  }
}

TEST(ResumeRulesTest, ChangesAreToldWhereSomethingIsLeftToCompute) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string words = "train.recompute changes from none to layer.";
  const ProgramResult finished = run.train("run", "--train.recompute=layer");
  EXPECT_EQ(finished.code, 0) << finished.output;
  EXPECT_EQ(finished.output.find(words), std::string::npos) << finished.output;
  const ProgramResult resumed =
      run.train("run", "--train.recompute=layer --resume " + run.folder("run") +
                           "/checkpoints/step-00000009");
  EXPECT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_NE(resumed.output.find(words), std::string::npos) << resumed.output;
}

TEST(ResumeRulesTest, ARefusedBackendLeavesNoFolder) {
  const SmallRun run(1);
  EXPECT_EQ(run.train("run", "--attention.backend=fused").code, 2);
  EXPECT_FALSE(folder_exists(run.folder("run")));
}

TEST(ResumeRulesTest, AFinishedRunEndsAtOnceAndCompletesAMissingExport) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  std::filesystem::remove_all(run.folder("run") + "/hybrid");
  const ProgramResult again = run.train("run");
  EXPECT_EQ(again.code, 0) << again.output;
  EXPECT_TRUE(folder_exists(run.folder("run") + "/hybrid"));
}

TEST(ResumeRulesTest, NeverRefusesAFolderWithARun) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run", "--resume never").code, 0);
  const ProgramResult refused = run.train("run", "--resume never");
  EXPECT_EQ(refused.code, 2) << refused.output;
}

TEST(ResumeRulesTest, ADryRunSaysWhereAStartWouldBeginAndRefusesWhatItWould) {
  const SmallRun run(1);
  const auto expect = [&](const std::string& flags, int code, const std::string& words) {
    const ProgramResult result = run.train("run", "--dry-run " + flags);
    EXPECT_EQ(result.code, code) << flags << result.output;
    EXPECT_NE(result.output.find(words), std::string::npos) << flags << result.output;
  };
  expect("", 0, "starts      from the beginning");
  EXPECT_FALSE(folder_exists(run.folder("run")));
  ASSERT_EQ(run.train("run").code, 0);
  const std::string newest = fmt::format("{}/checkpoints/step-{:08}", run.folder("run"), kSteps);
  expect("", 0, fmt::format("trains      no more: {} is of the last step, {}", newest, kSteps));
  expect(fmt::format("--train.steps={} --allow-change train.steps", kSteps + 3), 0,
         fmt::format("goes on     after step {}, from {}", kSteps, newest));
  expect("--regularizer.gamma=0.1", 2, "regularizer.gamma was");
  expect("--regularizer.gamma=0.1 --allow-change regularizer.gamma", 0, "no more");
  expect("--resume never", 2, "holds a run already");
  expect("--resume nowhere", 4, "nowhere, which is no folder");
  expect("--resume " + run.folder("run"), 4, "which is no checkpoint: it has no MANIFEST.json");
  std::filesystem::resize_file(newest + "/model.safetensors", 100);
  expect("--resume " + newest, 4, "model.safetensors");
  expect("", 0, "goes on     after step");
}

TEST(ResumeRulesTest, JsonIsWhatThisStartAddsToTheRecords) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string metrics = run.folder("run") + "/metrics.jsonl";
  const std::string before = read_file(metrics, ExitCode::kConfiguration);
  const std::string command =
      run.command("run", "--json --train.steps=14 --allow-change train.steps");
  const ProgramResult more = run_command(fmt::format("sh -c '{} 2>/dev/null'", command));
  EXPECT_EQ(more.code, 0);
  EXPECT_FALSE(more.output.empty());
  EXPECT_EQ(before + more.output, read_file(metrics, ExitCode::kConfiguration));
}

TEST(ResumeRulesTest, ADryRunTakesTheModelFromTheCheckpoint) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  std::filesystem::remove_all(run.root() + "/base");
  const ProgramResult there = run.train("run", "--dry-run");
  EXPECT_EQ(there.code, 0) << there.output;
  EXPECT_NE(there.output.find("#   model       llama: "), std::string::npos) << there.output;
  EXPECT_EQ(run.train("other", "--dry-run").code, 4);
}

TEST(ResumeRulesTest, ADryRunRefusesWhatItsFolderKeepsAStartFrom) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string checkpoints = run.folder("run") + "/checkpoints";
  const auto expect_both_to_refuse = [&](int code, const std::string& words) {
    for (const char* flags : {"--dry-run", ""}) {
      const ProgramResult result = run.train("run", flags);
      EXPECT_EQ(result.code, code) << flags << result.output;
      EXPECT_NE(result.output.find(words), std::string::npos) << flags << result.output;
    }
  };
  give_newer_format(fmt::format("{}/step-{:08}", checkpoints, kSteps));
  expect_both_to_refuse(4, "format version 2 is newer");
  for (const auto& entry : std::filesystem::directory_iterator(checkpoints)) {
    if (entry.is_directory()) std::filesystem::remove(entry.path() / "MANIFEST.json");
  }
  expect_both_to_refuse(4, "no checkpoint of this run verifies");
  expect_both_to_refuse(4, "no checkpoint of this run verifies");  // once they are set aside
  std::filesystem::remove_all(checkpoints);
  std::ofstream(checkpoints) << "a file";
  expect_both_to_refuse(2, "is a file, where the run has a folder of this name");
  std::filesystem::remove(checkpoints);
  std::filesystem::remove(run.folder("run") + "/metrics.jsonl");
  std::filesystem::create_directory(run.folder("run") + "/metrics.jsonl");
  expect_both_to_refuse(2, "is a folder, where the run has a file of this name");
}

TEST(ResumeRulesTest, ADamagedNewestCheckpointFallsBackToTheOneBefore) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string expected = run.outcome("run");
  const std::string newest = fmt::format("{}/checkpoints/step-{:08}", run.folder("run"), kSteps);
  {
    std::fstream file(newest + "/model.safetensors",
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-1, std::ios::end);
    file.put('\x55');
  }
  std::filesystem::remove_all(run.folder("run") + "/hybrid");
  const ProgramResult again = run.train("run");
  ASSERT_EQ(again.code, 0) << again.output;
  EXPECT_TRUE(folder_exists(newest + ".corrupt"));
  EXPECT_EQ(run.outcome("run"), expected);
  // An explicit path never falls back.
  const ProgramResult refused = run.train("run", "--resume " + newest + ".corrupt");
  EXPECT_EQ(refused.code, 4) << refused.output;
}

TEST(ResumeRulesTest, AnExtendedRunExportsItsLastWeightsAndKeepsTheFormerExport) {
  const SmallRun run(1);
  const std::string shorter = "--train.steps=6 --schedule.kind=constant";
  const std::string longer = "--train.steps=12 --schedule.kind=constant";
  ASSERT_EQ(run.train("run", shorter).code, 0);
  const auto exported = [&](const std::string& folder) {
    return read_file(run.folder("run") + "/" + folder + "/model.safetensors",
                     ExitCode::kCheckpoint);
  };
  const std::string former = exported("hybrid");
  const ProgramResult extended = run.train("run", longer + " --allow-change train.steps");
  ASSERT_EQ(extended.code, 0) << extended.output;
  EXPECT_NE(exported("hybrid"), former);
  EXPECT_EQ(exported("hybrid.superseded"), former);
  ASSERT_EQ(run.train("whole", longer).code, 0);
  EXPECT_EQ(exported("hybrid"),
            read_file(run.folder("whole") + "/hybrid/model.safetensors", ExitCode::kCheckpoint));
}

TEST(ResumeRulesTest, WhatIsComputedTwiceMayChangeAndChangesNothing) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run", "--train.recompute=selective").code, 0);
  const std::string expected = run.outcome("run");
  const std::string older = run.folder("run") + "/checkpoints/step-00000009";
  const ProgramResult resumed = run.train("run", "--train.recompute=layer --resume " + older);
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(run.outcome("run"), expected);
}

TEST(ResumeRulesTest, ARefusedStartMovesNothing) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string older = run.folder("run") + "/checkpoints/step-00000009";
  const std::string newest = fmt::format("{}/checkpoints/step-{:08}", run.folder("run"), kSteps);
  const ProgramResult refused = run.train("run", "--attention.window=4 --resume " + older);
  EXPECT_EQ(refused.code, 2) << refused.output;
  const ProgramResult no_data =
      run.train("run", "--resume " + older +
                           " '--data.sources=[{path: /nowhere.bin, eos_id: 60}]' --allow-change "
                           "data.sources");
  EXPECT_EQ(no_data.code, 3) << no_data.output;
  EXPECT_TRUE(folder_exists(newest));
  EXPECT_TRUE(folder_exists(run.folder("run") + "/hybrid"));
  // Accepted, the abandoned ones keep their bytes under another name.
  ASSERT_EQ(run.train("run", "--resume " + older).code, 0);
  EXPECT_TRUE(folder_exists(newest + ".superseded"));
  EXPECT_TRUE(folder_exists(newest));
}

TEST(ResumeRulesTest, ACheckpointOfAnotherRunNeedsAFolderOfItsOwn) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("one").code, 0);
  ASSERT_EQ(run.train("two").code, 0);
  const std::string foreign = run.folder("one") + "/checkpoints/step-00000009";
  const std::string before = run.outcome("two");
  const ProgramResult refused = run.train("two", "--resume " + foreign);
  EXPECT_EQ(refused.code, 2) << refused.output;
  EXPECT_EQ(run.outcome("two"), before);
}

TEST(OneBadRankTest, AStoppedRankEndsTheOthersWithinTheTimeout) {
  const SmallRun run(2);
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

// A limit on the size of files stands for the full disk: writes really fail, in the middle.
TEST(ResumeRulesTest, AFullDiskCostsNoCommittedCheckpoint) {
  const SmallRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string expected = run.outcome("run");
  const std::string checkpoints = run.folder("run") + "/checkpoints";
  std::filesystem::remove_all(fmt::format("{}/step-{:08}", checkpoints, kSteps));
  std::filesystem::remove_all(run.folder("run") + "/hybrid");

  const ProgramResult full = run_command("ulimit -f 120; " + run.command("run"));
  EXPECT_EQ(full.code, 4) << full.output;
  EXPECT_NE(full.output.find("was not saved; training goes on"), std::string::npos) << full.output;
  EXPECT_NE(full.output.find("its last checkpoint could not be saved"), std::string::npos)
      << full.output;
  EXPECT_EQ(read_metrics(run.folder("run"), "train").size(), kSteps);
  EXPECT_FALSE(folder_exists(run.folder("run") + "/hybrid"));
  const ProgramResult verified = run_command(
      fmt::format("{}/swiattn-checkpoint verify {}/step-00000009", SWIATTN_PROGRAMS, checkpoints));
  EXPECT_EQ(verified.code, 0) << verified.output;

  const ProgramResult again = run.train("run");
  EXPECT_EQ(again.code, 0) << again.output;
  EXPECT_EQ(run.outcome("run"), expected);
}

TEST(ResumeRulesTest, TwoRunsCannotShareAFolder) {
  const SmallRun run(1);
  const pid_t child = run.start("shared");
  while (!file_exists(run.folder("shared") + "/.lock")) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  kill(child, SIGSTOP);  // holds the lock without making progress
  const ProgramResult second = run.train("shared");
  kill(child, SIGCONT);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(second.code, 2) << second.output;
}

}  // namespace
}  // namespace swiattn
