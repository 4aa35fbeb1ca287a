// From which checkpoint a run goes on and under which configuration, and what it refuses, on whole
// runs of swiattn-train.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "../checkpoint/newer_format.h"
#include "base/file_system.h"
#include "base/folder_lock.h"
#include "resumable_run.h"

namespace swiattn {
namespace {

TEST(ResumeRulesTest, AChangeOfTheMathematicsIsRefusedByName) {
  const ResumableRun run(1);
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
  const ResumableRun run(1);
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
  const ResumableRun run(1);
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
  const ResumableRun run(1);
  EXPECT_EQ(run.train("run", "--attention.backend=fused").code, 2);
  EXPECT_FALSE(folder_exists(run.folder("run")));
}

TEST(ResumeRulesTest, AFinishedRunEndsAtOnceAndCompletesAMissingExport) {
  const ResumableRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  std::filesystem::remove_all(run.folder("run") + "/hybrid");
  const ProgramResult again = run.train("run");
  EXPECT_EQ(again.code, 0) << again.output;
  EXPECT_TRUE(folder_exists(run.folder("run") + "/hybrid"));
}

TEST(ResumeRulesTest, NeverRefusesAFolderWithARun) {
  const ResumableRun run(1);
  ASSERT_EQ(run.train("run", "--resume never").code, 0);
  const ProgramResult refused = run.train("run", "--resume never");
  EXPECT_EQ(refused.code, 2) << refused.output;
}

TEST(ResumeRulesTest, ADryRunSaysWhereAStartWouldBeginAndRefusesWhatItWould) {
  const ResumableRun run(1);
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
  const ResumableRun run(1);
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
  const ResumableRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  std::filesystem::remove_all(run.root() + "/base");
  const ProgramResult there = run.train("run", "--dry-run");
  EXPECT_EQ(there.code, 0) << there.output;
  EXPECT_NE(there.output.find("#   model       llama: "), std::string::npos) << there.output;
  EXPECT_EQ(run.train("other", "--dry-run").code, 4);
}

TEST(ResumeRulesTest, ADryRunRefusesWhatItsFolderKeepsAStartFrom) {
  const ResumableRun run(1);
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
  std::filesystem::remove(run.folder("run") + "/metrics.jsonl");
  std::filesystem::remove(run.folder("run") + "/config.yaml");
  std::filesystem::create_directory(run.folder("run") + "/config.yaml");
  expect_both_to_refuse(2, "config.yaml is a folder, where the run has a file of this name");
}

// The other run's checkpoint is not one that the same command could go on from.
TEST(ResumeRulesTest, AStopBeforeTheFirstStepSavesARunThatGoesOnFromAnother) {
  const ResumableRun run(1);
  const std::string flags = "--validation.every=3 --validation.batches=20";
  ASSERT_EQ(run.train("one", flags).code, 0);
  const std::string file = run.folder("two") + "/metrics.jsonl";
  const int code =
      run.stop_when([&] { return file_exists(file); }, "two",
                    flags + " --resume " + run.folder("one") + "/checkpoints/step-00000009");
  EXPECT_TRUE(code == 75 || code == 0) << code;  // 0: it was too fast to be caught
  const ProgramResult rest = run.train("two", flags);
  EXPECT_EQ(rest.code, 0) << rest.output;
  EXPECT_EQ(read_metrics(run.folder("two"), "validation").front().at("step"), 9);
  EXPECT_EQ(read_metrics(run.folder("two"), "train").front().at("step"), 10);
}

// Without one of its own, a start without --resume would begin anew.
TEST(ResumeRulesTest, ARunThatGoesOnFromAnotherStartsOnceItHasSavedItsOwn) {
  const ResumableRun run(1);
  ASSERT_EQ(run.train("one").code, 0);
  const std::string resume = "--resume " + run.folder("one") + "/checkpoints/step-00000009";
  const ProgramResult full = run_command("ulimit -f 120; " + run.command("two", resume));
  EXPECT_EQ(full.code, 4) << full.output;
  EXPECT_NE(full.output.find("start the same command again"), std::string::npos) << full.output;
  EXPECT_TRUE(read_metrics(run.folder("two"), "train").empty());
  // What a kill leaves of that save.
  std::filesystem::create_directory(run.folder("two") + "/checkpoints/step-00000009.tmp.0");
  const ProgramResult again = run.train("two", resume);
  EXPECT_EQ(again.code, 0) << again.output;
  EXPECT_EQ(read_metrics(run.folder("two"), "train").front().at("step"), 10);
}

TEST(ResumeRulesTest, TheLastCheckpointOfAnotherRunIsValidatedSavedAndExported) {
  const ResumableRun run(1);
  ASSERT_EQ(run.train("one").code, 0);
  const std::string step = fmt::format("/checkpoints/step-{:08}", kSteps);
  const std::string resume = " --resume " + run.folder("one") + step;
  const ProgramResult two = run.train("two", resume);
  EXPECT_EQ(two.code, 0) << two.output;
  EXPECT_EQ(read_metrics(run.folder("two"), "validation"),
            std::vector{read_metrics(run.folder("one"), "validation").back()});
  const ProgramResult three = run.train("three", "--data.validation=[]" + resume);
  EXPECT_EQ(three.code, 0) << three.output;
  for (const char* name : {"two", "three"}) {
    for (const std::string& file :
         {step + "/model.safetensors", std::string("/hybrid/README.md")}) {
      EXPECT_TRUE(file_exists(run.folder(name) + file)) << name << file;
    }
  }
  EXPECT_EQ(run.train("three", "--data.validation=[]").code, 0);
  EXPECT_TRUE(read_metrics(run.folder("three"), "train").empty());
}

// Lines and checkpoints of later steps go together.
TEST(ResumeRulesTest, ARunThatGoesBackToFewerStepsEndsThere) {
  const ResumableRun run(1);
  const std::string no_export = "--checkpoint.export_at_end=false ";
  ASSERT_EQ(run.train("run", no_export).code, 0);
  const std::string checkpoints = run.folder("run") + "/checkpoints";
  const std::string fewer = no_export + "--train.steps=9 --allow-change train.steps ";
  const ProgramResult back = run.train("run", fewer + "--resume " + checkpoints + "/step-00000009");
  EXPECT_EQ(back.code, 0) << back.output;
  for (int start = 0; start < 2; ++start) {
    EXPECT_EQ(read_metrics(run.folder("run"), "train").back().at("step"), 9);
    EXPECT_EQ(read_metrics(run.folder("run"), "validation").back().at("step"), 9);
    EXPECT_TRUE(folder_exists(checkpoints + "/step-00000009"));
    EXPECT_FALSE(folder_exists(fmt::format("{}/step-{:08}", checkpoints, kSteps)));
    EXPECT_EQ(run.train("run", fewer).code, 0);
  }
}

TEST(ResumeRulesTest, AFinishedRunValidatesOnASetThatIsNew) {
  const ResumableRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string hybrid = run.folder("run") + "/hybrid/model.safetensors";
  const auto exported = std::filesystem::last_write_time(hybrid);
  const std::string set = "path: " + run.root() + "/tokens.bin, eos_id: 60";
  const ProgramResult more = run.train(
      "run", fmt::format("'--data.validation=[{{name: held, {0}}}, {{name: new, {0}}}]'", set));
  EXPECT_EQ(more.code, 0) << more.output;
  const std::vector<Json> lines = read_metrics(run.folder("run"), "validation");
  ASSERT_GE(lines.size(), 2);
  EXPECT_EQ(lines[lines.size() - 2].at("name"), "held");
  EXPECT_EQ(lines.back().at("name"), "new");
  EXPECT_EQ(lines.back().at("step"), kSteps);
  EXPECT_EQ(std::filesystem::last_write_time(hybrid), exported);
  EXPECT_FALSE(folder_exists(run.folder("run") + "/hybrid.superseded"));
}

TEST(ResumeRulesTest, AModelChangedInItsFileIsRefused) {
  const ResumableRun run(1);
  const std::string file = run.root() + "/model.json";
  std::filesystem::copy_file(run.root() + "/base/config.json", file);
  const auto expect = [&](const std::string& flags, int code, const std::string& words) {
    const ProgramResult result =
        run.train("run", "--model.init_from=null --model.architecture=" + file + " " + flags);
    EXPECT_EQ(result.code, code) << flags << result.output;
    EXPECT_NE(result.output.find(words), std::string::npos) << flags << result.output;
  };
  const std::string more = fmt::format("--train.steps={} --allow-change train.steps ", kSteps + 1);
  expect("", 0, "");
  expect("--dry-run " + more, 0, "goes on");
  Json json = Json::parse(read_file(file, ExitCode::kConfiguration));
  json["intermediate_size"] = 7;
  std::ofstream(file) << json.dump();
  const std::string words = "model.json describes another model now: it has model.layers.0.mlp.";
  expect("--dry-run " + more, 2, words);
  expect(more, 2, words);
  std::filesystem::remove(file);
  expect(more, 0, "");
}

TEST(ResumeRulesTest, ADryRunTellsWhoHoldsTheFolder) {
  const ResumableRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const FolderLock held(run.folder("run"));
  const ProgramResult there = run.train("run", "--dry-run");
  EXPECT_EQ(there.code, 0) << there.output;
  EXPECT_NE(there.output.find(fmt::format("is in use by process {}", getpid())), std::string::npos)
      << there.output;
}

TEST(ResumeRulesTest, ADamagedNewestCheckpointFallsBackToTheOneBefore) {
  const ResumableRun run(1);
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
  const ResumableRun run(1);
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
  const ResumableRun run(1);
  ASSERT_EQ(run.train("run", "--train.recompute=selective").code, 0);
  const std::string expected = run.outcome("run");
  const std::string older = run.folder("run") + "/checkpoints/step-00000009";
  const ProgramResult resumed = run.train("run", "--train.recompute=layer --resume " + older);
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(run.outcome("run"), expected);
}

TEST(ResumeRulesTest, ARefusedStartMovesNothing) {
  const ResumableRun run(1);
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
  const ResumableRun run(1);
  ASSERT_EQ(run.train("one").code, 0);
  ASSERT_EQ(run.train("two").code, 0);
  const std::string foreign = run.folder("one") + "/checkpoints/step-00000009";
  const std::string before = run.outcome("two");
  const ProgramResult refused = run.train("two", "--resume " + foreign);
  EXPECT_EQ(refused.code, 2) << refused.output;
  EXPECT_EQ(run.outcome("two"), before);
}

// A limit on the size of files stands for the full disk: writes really fail, in the middle.
TEST(ResumeRulesTest, AFullDiskCostsNoCommittedCheckpoint) {
  const ResumableRun run(1);
  ASSERT_EQ(run.train("run").code, 0);
  const std::string expected = run.outcome("run");
  const std::string checkpoints = run.folder("run") + "/checkpoints";
  std::filesystem::remove_all(fmt::format("{}/step-{:08}", checkpoints, kSteps));
  std::filesystem::remove_all(run.folder("run") + "/hybrid");

  const ProgramResult full =
      run_command("ulimit -f 120; " + run.command("run", "--checkpoint.every=1"));
  EXPECT_EQ(full.code, 4) << full.output;
  for (const char* words :
       {"of step 10 was not saved; training goes on. ",
        "of step 11 was not saved; training goes on. ", "of step 12 was not saved. "}) {
    EXPECT_NE(full.output.find(words), std::string::npos) << words << full.output;
  }
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
  const ResumableRun run(1);
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
