#include "checkpoint/run_commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <sstream>

#include "base/folder_lock.h"
#include "base/json.h"
#include "checkpoint/checkpoint_store.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class RunCommandsTest : public ::testing::Test {
 protected:
  RunCommandsTest() {
    for (const int64_t step : {100, 200, 300}) {
      CheckpointWriter writer = store_.begin(step, 0);
      writer.add_text("state.json", std::string(2048, 'x'));
      writer.commit({step, step * 10, 2, 7});
    }
  }

  std::string run(std::vector<std::string> words) {
    std::ostringstream out;
    CLI::App app;
    add_run_commands(app, FileSystem::posix(), log_, out);
    std::reverse(words.begin(), words.end());  // as CLI11 wants them
    app.parse(words);
    return out.str();
  }

  TemporaryFolder folder_;
  RecordingLog log_;
  CheckpointStore store_{FileSystem::posix(), folder_.file("checkpoints"), log_};
};

TEST_F(RunCommandsTest, ListShowsStepTokensRanksAndSize) {
  const std::string text = run({"list", folder_.path()});
  EXPECT_THAT(text, HasSubstr("step-00000100                1000      2     2.00 KiB      1\n"));
  EXPECT_THAT(text, HasSubstr("step-00000300                3000      2     2.00 KiB      1\n"));
}

TEST_F(RunCommandsTest, ListTellsDamagedAndUnusedFolders) {
  std::filesystem::remove(store_.path(200) + "/state.json");
  std::filesystem::create_directory(store_.path(400) + ".corrupt");
  const std::string text = run({"list", folder_.path()});
  EXPECT_THAT(text, HasSubstr("step-00000200    damaged: " + store_.path(200) + "/state.json"));
  EXPECT_THAT(text, HasSubstr("step-00000400.corrupt (not used)"));
}

TEST_F(RunCommandsTest, ListAsJsonCanBeParsed) {
  std::filesystem::remove(store_.path(200) + "/state.json");
  const Json list = Json::parse(run({"list", folder_.path(), "--json"}));
  ASSERT_EQ(list.size(), 3U);
  EXPECT_EQ(list[0]["step"], 100);
  EXPECT_EQ(list[0]["tokens"], 1000);
  EXPECT_EQ(list[0]["bytes"], 2048);
  EXPECT_TRUE(list[1].contains("problem"));
}

TEST_F(RunCommandsTest, PruneKeepsTheNewest) {
  const std::string text = run({"prune", folder_.path(), "--keep", "1"});
  EXPECT_THAT(store_.steps(), ElementsAre(300));
  EXPECT_THAT(text, HasSubstr("removed " + store_.path(100)));
  EXPECT_THAT(text, HasSubstr("2 removed, 1 left."));
}

TEST_F(RunCommandsTest, PruneNeverRemovesTheLastGoodCheckpoint) {
  write_file(store_.path(300) + "/state.json", std::string(2048, 'y'));
  const Json result = Json::parse(run({"prune", folder_.path(), "--keep", "1", "--json"}));
  EXPECT_THAT(result["removed"], ElementsAre(100));
  EXPECT_THAT(result["left"], ElementsAre(200, 300));
}

TEST_F(RunCommandsTest, PruneLeavesASaveInProgressAlone) {
  CheckpointWriter writer = store_.begin(400, 0);
  writer.add_text("state.json", "{}");
  run({"prune", folder_.path(), "--keep", "1"});
  writer.commit({400, 4000, 2, 7});
  EXPECT_THAT(store_.steps(), ElementsAre(300, 400));
}

TEST_F(RunCommandsTest, PruneRefusesARunThatIsInUse) {
  const FolderLock held(folder_.path());
  try {
    run({"prune", folder_.path(), "--keep", "1"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kConfiguration);
    EXPECT_THAT(error.what(), HasSubstr("in use by process"));
  }
  EXPECT_THAT(store_.steps(), ElementsAre(100, 200, 300));
}

TEST_F(RunCommandsTest, PruneRefusesToKeepNothing) {
  for (const char* keep : {"0", "-1", "x", "1.5"}) {
    EXPECT_THROW(run({"prune", folder_.path(), "--keep", keep}), CLI::ParseError) << keep;
  }
  EXPECT_THAT(store_.steps(), ElementsAre(100, 200, 300));
}

TEST_F(RunCommandsTest, AFolderThatIsNoRunIsRefused) {
  for (const char* command : {"list", "prune"}) {
    try {
      run({command, folder_.file("checkpoints")});
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
      EXPECT_THAT(error.what(), HasSubstr("not the folder of a run"));
    }
  }
}

TEST_F(RunCommandsTest, ARunCheckpointIsTellableFromAModelFolder) {
  EXPECT_TRUE(is_run_checkpoint(store_.path(100)));
  EXPECT_TRUE(is_run_checkpoint(store_.path(100) + "/"));
  EXPECT_FALSE(is_run_checkpoint(folder_.path()));
  std::filesystem::remove(store_.path(100) + "/MANIFEST.json");
  EXPECT_TRUE(is_run_checkpoint(store_.path(100)));  // a damaged one, and to be called so
}

TEST_F(RunCommandsTest, VerifyReadsEveryByte) {
  std::ostringstream out;
  verify_run_checkpoint(store_.path(100), false, out);
  EXPECT_THAT(out.str(), HasSubstr("every byte verifies"));
  std::ostringstream json;
  verify_run_checkpoint(store_.path(100), true, json);
  EXPECT_EQ(Json::parse(json.str())["step"], 100);
  write_file(store_.path(100) + "/state.json", std::string(2048, 'y'));
  EXPECT_THROW(verify_run_checkpoint(store_.path(100), false, out), Error);
  EXPECT_TRUE(folder_exists(store_.path(100)));  // looking changes nothing
}

}  // namespace
}  // namespace swiattn
