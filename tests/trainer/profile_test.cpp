// log.profile on whole runs of swiattn-train on the CPU: what it leaves, and that it changes
// nothing else.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "../base/temporary_folder.h"
#include "../model/small_models.h"
#include "base/file_system.h"
#include "small_run.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
using ::testing::Not;

constexpr int kSteps = 8;
constexpr int64_t kMicroBatches = 2;  // of a step on one rank
const std::string kThreeSteps = "'--log.profile={start: 4, steps: 3}'";

class ProfileTest : public testing::Test {
 protected:
  ProfileTest() {
    const ModelConfig config = small_config(Architecture::kLlama);
    layers_ = config.layers;
    write_model_folder(root() + "/base", config, random_weights(config, false, 5));
    write_flat_shard(root() + "/tokens.bin", random_documents(3000, config.vocab_size, 6));
    std::ofstream(root() + "/run.yaml") << fmt::format(
        "run: {{folder: {0}/run}}\n"
        "model: {{init_from: {0}/base, compute: float32}}\n"
        "attention: {{window: 8}}\n"
        "data: {{sequence_length: 32, sources: [{{path: {0}/tokens.bin, eos_id: 60}}],\n"
        "       validation: [{{name: held, path: {0}/tokens.bin, eos_id: 60}}]}}\n"
        "train: {{steps: {1}, global_batch: 4, micro_batch: 2}}\n"
        "schedule: {{warmup: 2}}\n"
        "validation: {{every: 5, batches: 1}}\n"
        "checkpoint: {{every: 2, keep_last: 9}}\n",
        root(), kSteps);
  }

  std::string root() const { return folder_.path(); }
  std::string run(const std::string& name) const { return root() + "/" + name; }

  ProgramResult train(const std::string& name, const std::string& flags,
                      const std::string& launcher = "") const {
    return run_command(
        fmt::format("{}{}/swiattn-train --device cpu --config {}/run.yaml --run.folder={} {}",
                    launcher, SWIATTN_PROGRAMS, root(), run(name), flags));
  }

  Json read_json(const std::string& path) const {
    return parse_json(read_file(path, ExitCode::kData), path, ExitCode::kData);
  }
  Json kernels(const std::string& name) const {
    return read_json(run(name) + "/profile/kernels.json");
  }

  // How often each name stands in the trace, with these first letters.
  std::map<std::string, int64_t> ranges(const std::string& name, const std::string& prefix) const {
    std::map<std::string, int64_t> found;
    const Json trace = read_json(run(name) + "/profile/trace.json");
    for (const Json& event : trace.at("traceEvents")) {
      if (!event.contains("cat") || event.at("cat") != "user_annotation") continue;
      const auto text = event.at("name").get<std::string>();
      if (text.starts_with(prefix)) ++found[text];
    }
    return found;
  }
  std::vector<std::string> steps(const std::string& name) const {
    std::vector<std::string> found;
    for (const auto& [step, count] : ranges(name, "step ")) found.push_back(step);
    return found;
  }

  std::vector<std::string> outcome(const std::string& name) const {
    std::vector<std::string> lines;
    for (const Json& line : read_metrics(run(name), "train")) {
      lines.push_back(fmt::format("{} {} {}", line.at("step").dump(), line.at("loss").dump(),
                                  line.at("grad_norm").dump()));
    }
    return lines;
  }

  int64_t layers_ = 0;

 private:
  TemporaryFolder folder_;
};

TEST_F(ProfileTest, RecordsExactlyTheStepsAskedFor) {
  const ProgramResult result = train("run", kThreeSteps);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(steps("run"), ElementsAre("step 4", "step 5", "step 6"));
  // Every part of the model under its name, as often as it was computed.
  EXPECT_EQ(ranges("run", "forward")["forward"], 3 * kMicroBatches);
  EXPECT_EQ(ranges("run", "backward")["backward"], 3 * kMicroBatches);
  const auto layers = ranges("run", "layer ");
  EXPECT_EQ(layers.size(), static_cast<size_t>(2 * layers_));
  EXPECT_EQ(layers.at("layer 1 forward"), 3 * kMicroBatches);
  EXPECT_EQ(layers.at(fmt::format("layer {} backward", layers_)), 3 * kMicroBatches);
  const Json json = kernels("run");
  EXPECT_EQ(json.at("first_step"), 4);
  EXPECT_EQ(json.at("steps"), 3);
  EXPECT_EQ(json.at("on_gpu"), false);
}

TEST_F(ProfileTest, ShowsWhatIsComputedTwiceAsAPhaseOfItsOwn) {
  const ProgramResult result = train("run", kThreeSteps + " --train.recompute=selective");
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_EQ(ranges("run", "recompute")["recompute"], 3 * kMicroBatches * layers_);
  EXPECT_EQ(ranges("run", "layer ").at("layer 1 recompute"), 3 * kMicroBatches);
  const Json json = kernels("run");
  double share = 0.0;
  for (const Json& phase : json.at("phases")) {
    if (phase.at("name") == "recompute") share = phase.at("share").get<double>();
  }
  EXPECT_GT(share, 0.0);
}

TEST_F(ProfileTest, TellsWhereTheTimeWentAndWhereTheFilesAre) {
  const ProgramResult result = train("run", kThreeSteps);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr(run("run") + "/profile/kernels.txt"));
  EXPECT_THAT(result.output, HasSubstr("steps 4 to 6"));
  EXPECT_THAT(result.output, Not(HasSubstr("ERROR")));  // of the library, for the missing GPU

  const Json json = kernels("run");
  double shares = json.at("idle_share").get<double>();
  std::map<std::string, double> phases;
  for (const Json& phase : json.at("phases")) {
    phases[phase.at("name")] = phase.at("share").get<double>();
    shares += phase.at("share").get<double>();
  }
  EXPECT_NEAR(shares, 1.0, 1e-6);
  for (const char* name : {"data", "forward", "head and loss", "backward", "optimizer"}) {
    EXPECT_GT(phases[name], 0.0) << name;
  }
  EXPECT_GT(phases["forward"] + phases["backward"], 0.3);
  EXPECT_LT(phases["other"], 0.5);

  double operators = 0.0, milliseconds = 0.0;
  std::set<std::string> names;
  for (const Json& row : json.at("kernels")) {
    names.insert(row.at("name").get<std::string>());
    operators += row.at("share").get<double>();
    milliseconds += row.at("milliseconds").get<double>();
    EXPECT_GT(row.at("calls").get<double>(), 0.0);
    EXPECT_GE(row.at("milliseconds").get<double>(), 0.0);
  }
  EXPECT_THAT(names, IsSupersetOf({"aten::mm", "aten::mul", "aten::copy_"}));
  EXPECT_NEAR(operators, 1.0, 1e-6);
  EXPECT_LE(milliseconds, json.at("step_milliseconds").get<double>());
  EXPECT_THAT(read_file(run("run") + "/profile/kernels.txt", ExitCode::kData),
              HasSubstr("Profile of steps 4 to 6"));
}

TEST_F(ProfileTest, ChangesNoNumberOfTheRun) {
  ASSERT_EQ(train("without", "").code, 0);
  ASSERT_EQ(train("with", kThreeSteps).code, 0);
  EXPECT_EQ(outcome("with"), outcome("without"));
  EXPECT_FALSE(folder_exists(run("without") + "/profile"));
}

TEST_F(ProfileTest, IsRecordedFromTheFirstStepToTheLastToo) {
  const ProgramResult result = train("run", "'--log.profile={start: 1, steps: 8}'");
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_EQ(kernels("run").at("steps"), kSteps);
}

TEST_F(ProfileTest, AResumeAfterItRecordsNothing) {
  ASSERT_EQ(train("run", "").code, 0);
  const ProgramResult result =
      train("resumed", "--resume " + run("run") + "/checkpoints/step-00000006 " + kThreeSteps);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("log.profile: the run goes on with step 7, behind steps 4 "
                                       "to 6; nothing is profiled."));
  EXPECT_FALSE(folder_exists(run("resumed") + "/profile"));
  EXPECT_EQ(outcome("resumed").size(), 2U);
}

TEST_F(ProfileTest, AResumeInTheMiddleRecordsTheRest) {
  ASSERT_EQ(train("run", "").code, 0);
  const ProgramResult result =
      train("resumed", "--resume " + run("run") + "/checkpoints/step-00000004 " + kThreeSteps);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(steps("resumed"), ElementsAre("step 5", "step 6"));
  EXPECT_EQ(kernels("resumed").at("first_step"), 5);
  std::vector<std::string> rest = outcome("run");
  rest.erase(rest.begin(), rest.begin() + 4);
  EXPECT_EQ(outcome("resumed"), rest);
}

TEST_F(ProfileTest, OfARunThatIsStoppedHasTheStepsThatItHad) {
  const std::string metrics = run("run") + "/metrics.jsonl";
  const ProgramResult result = run_command(fmt::format(
      "sh -c \"{}/swiattn-train --device cpu --config {}/run.yaml --train.steps=5000 "
      "'--log.profile={{start: 1, steps: 20}}' & pid=\\$!; while [ ! -s {} ]; do sleep 0.01; done; "
      "kill -USR1 \\$pid; wait \\$pid\"",
      SWIATTN_PROGRAMS, root(), metrics));
  ASSERT_EQ(result.code, 75) << result.output;
  const auto done = static_cast<int64_t>(outcome("run").size());
  EXPECT_EQ(kernels("run").at("steps"), std::min<int64_t>(done, 20));
  EXPECT_THAT(result.output, HasSubstr("/profile/kernels.txt"));
}

TEST_F(ProfileTest, OfARunWhoseStepsAreNotFiniteHasTheStepsThatItHad) {
  for (const int ranks : {1, 2}) {
    const std::string name = fmt::format("of-{}", ranks);
    const ProgramResult result = train(
        name,
        "--optimizer.learning_rate=1e15 --optimizer.weight_decay=0 --numerics.max_skips_in_a_row=2 "
        "'--log.profile={start: 2, steps: 7}'",
        fmt::format("mpirun --allow-run-as-root --oversubscribe -np {} ", ranks));
    ASSERT_EQ(result.code, 6) << result.output;
    // The step that ends the run is not among its metrics.
    const auto done = static_cast<int64_t>(outcome(name).size()) + 1;
    ASSERT_LT(done, kSteps);
    EXPECT_EQ(kernels(name).at("first_step"), 2);
    EXPECT_EQ(kernels(name).at("steps"), done - 1);
    EXPECT_EQ(steps(name).size(), static_cast<size_t>(done - 1));
    EXPECT_THAT(result.output, HasSubstr(fmt::format("Profile of steps 2 to {}", done)));
  }
}

TEST_F(ProfileTest, KeepsThoseOfOtherStepsBesideIt) {
  const std::vector<std::string> files = {"kernels.json", "kernels.txt", "trace.json"};
  ASSERT_EQ(train("run", "'--log.profile={start: 3, steps: 2}'").code, 0);
  const std::string first = read_file(run("run") + "/profile/kernels.json", ExitCode::kData);
  for (const std::string kept : {"profile.superseded", "profile.superseded-2"}) {
    const ProgramResult result =
        train("run", "--resume " + run("run") +
                         "/checkpoints/step-00000004 '--log.profile={start: 4, steps: 3}'");
    ASSERT_EQ(result.code, 0) << result.output;
    EXPECT_THAT(result.output,
                HasSubstr("The one before is kept as " + run("run") + "/" + kept + "."));
    EXPECT_THAT(steps("run"), ElementsAre("step 5", "step 6"));
    for (const std::string& folder : {std::string("profile"), kept}) {
      EXPECT_EQ(list_folder(run("run") + "/" + folder, ExitCode::kData), files);
    }
  }
  EXPECT_EQ(read_file(run("run") + "/profile.superseded/kernels.json", ExitCode::kData), first);
  EXPECT_FALSE(folder_exists(run("run") + "/profile.tmp"));
}

// Whatever a crash or a person has left there: even a pipe, which would keep a writer waiting.
TEST_F(ProfileTest, IsWrittenBesideAnythingThatHasItsNames) {
  std::filesystem::create_directories(run("run") + "/profile/trace.json/full");
  std::filesystem::create_directories(run("run") + "/profile.tmp/kernels.json.tmp/full");
  ASSERT_EQ(mkfifo((run("run") + "/profile.tmp/trace.json.tmp").c_str(), 0600), 0);
  const ProgramResult result = train("run", kThreeSteps);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, Not(HasSubstr("ERROR")));  // of the library
  EXPECT_THAT(steps("run"), ElementsAre("step 4", "step 5", "step 6"));
  EXPECT_TRUE(folder_exists(run("run") + "/profile.superseded/trace.json/full"));
  EXPECT_FALSE(folder_exists(run("run") + "/profile.tmp"));
}

TEST_F(ProfileTest, ThatCannotBeWrittenIsAWarning) {
  std::filesystem::create_directory(run("run"));
  std::filesystem::create_symlink("nowhere", run("run") + "/profile");
  const ProgramResult result = train("run", kThreeSteps);
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(result.output, HasSubstr("warning: The profile could not be written."));
  EXPECT_FALSE(folder_exists(run("run") + "/profile.tmp"));
  EXPECT_EQ(outcome("run").size(), kSteps);
}

TEST_F(ProfileTest, OfSeveralRanksIsThatOfTheFirst) {
  const ProgramResult result =
      train("run", kThreeSteps, "mpirun --allow-run-as-root --oversubscribe -np 2 ");
  ASSERT_EQ(result.code, 0) << result.output;
  EXPECT_THAT(steps("run"), ElementsAre("step 4", "step 5", "step 6"));
  EXPECT_EQ(ranges("run", "forward")["forward"], 3 * kMicroBatches / 2);
  EXPECT_EQ(ranges("run", "reduce")["reduce"], 3);
  EXPECT_THAT(list_folder(run("run") + "/profile", ExitCode::kData),
              ElementsAre("kernels.json", "kernels.txt", "trace.json"));
}

}  // namespace
}  // namespace swiattn
