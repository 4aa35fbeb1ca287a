#include "trainer/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>

#include "base/host.h"
#include "tests/base/temporary_folder.h"
#include "trainer/environment.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

class RunFolderTest : public ::testing::Test {
 protected:
  std::unique_ptr<RunFolder> open() {
    return std::make_unique<RunFolder>(FileSystem::posix(), path_, milliseconds(0));
  }
  std::string refusal(const std::string& path) {
    try {
      RunFolder(FileSystem::posix(), path, milliseconds(0));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfiguration);
      return error.what();
    }
    return "";
  }

  TemporaryFolder folder_;
  std::string path_ = folder_.file("runs/demo");
};

TEST_F(RunFolderTest, IsMadeWithItsParents) {
  const auto run = open();
  EXPECT_TRUE(folder_exists(path_));
  EXPECT_EQ(run->metrics(), path_ + "/metrics.jsonl");
  EXPECT_EQ(RunFolder(FileSystem::posix(), folder_.file("other") + "//").path(),
            folder_.file("other"));
}

TEST_F(RunFolderTest, CannotBeSharedByTwoRuns) {
  const auto first = open();
  const std::string sentence = refusal(path_);
  EXPECT_THAT(sentence, HasSubstr(path_));
  EXPECT_THAT(sentence, HasSubstr(fmt::format("process {} on {}", getpid(), host_name())));
}

TEST_F(RunFolderTest, IsFreeAgainWhenTheRunEnds) {
  open();
  EXPECT_EQ(refusal(path_), "");
}

TEST_F(RunFolderTest, ThatIsAFileOrBelowOneIsRefused) {
  write_file(folder_.file("file"), "x");
  EXPECT_THAT(refusal(folder_.file("file")), HasSubstr("run.folder"));
  EXPECT_THAT(refusal(folder_.file("file/run")), HasSubstr("run.folder"));
}

TEST_F(RunFolderTest, ThatCannotBeWrittenIsRefused) {
  if (geteuid() == 0) GTEST_SKIP() << "root can write everywhere";
  fs::create_directories(path_);
  fs::permissions(path_, fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_THAT(refusal(path_), HasSubstr("cannot be used"));
}

TEST_F(RunFolderTest, CanBeTriedWithoutATrace) {
  FileSystem& files = FileSystem::posix();
  EXPECT_NO_THROW(try_run_folder(files, path_ + "/"));
  EXPECT_FALSE(fs::exists(folder_.file("runs")));
  const auto held = open();
  EXPECT_NO_THROW(try_run_folder(files, path_));
  EXPECT_FALSE(fs::exists(path_ + "/.dry-run"));
  EXPECT_TRUE(folder_exists(path_));
  write_file_atomically(files, folder_.file("file"), "x");
  for (const std::string& path : {folder_.file("file"), folder_.file("file/below"),
                                  folder_.file("new/" + std::string(300, 'x'))}) {
    try {
      try_run_folder(files, path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfiguration);
      EXPECT_THAT(error.what(), HasSubstr("run.folder: '" + path + "' cannot be used"));
    }
  }
  EXPECT_FALSE(fs::exists(folder_.file("new")));
}

TEST_F(RunFolderTest, KnowsWhetherItHoldsARun) {
  const auto run = open();
  EXPECT_FALSE(run->holds_a_run());
  write_file(run->metrics(), "");
  fs::create_directory(run->checkpoints());
  EXPECT_FALSE(run->holds_a_run());
  fs::create_directory(run->checkpoints() + "/step-00000001.corrupt");
  EXPECT_TRUE(run->holds_a_run());
  fs::remove_all(run->checkpoints());
  write_file(run->metrics(), "{}\n");
  EXPECT_TRUE(run->holds_a_run());
}

TEST_F(RunFolderTest, KeepsConfigurationAndEnvironment) {
  const auto run = open();
  const ProgramFacts facts = {
      {"swiattn-train", "--config", "a b.yaml"}, {{"swiattn", "0.1.0"}}, {"NVIDIA H200"}, 2};
  run->describe("run: {}\n", "run: {seed: 1234}\n", describe_environment(facts));
  EXPECT_EQ(read_file(path_ + "/config.yaml", ExitCode::kInternal), "run: {}\n");
  EXPECT_EQ(read_file(path_ + "/config.resolved.yaml", ExitCode::kInternal), "run: {seed: 1234}\n");
  const Json environment = read_json_file(path_ + "/environment.json", ExitCode::kInternal);
  EXPECT_EQ(environment["command_line"], Json({"swiattn-train", "--config", "a b.yaml"}));
  EXPECT_EQ(environment["versions"]["swiattn"], "0.1.0");
  EXPECT_EQ(environment["gpus"][0], "NVIDIA H200");
  EXPECT_EQ(environment["host"], host_name());
  EXPECT_GT(environment["memory_gib"].get<double>(), 0.1);
  EXPECT_GE(environment["cores"].get<int>(), 1);
}

TEST(GitCommit, IsFoundFromAnyFolderOfTheClone) {
  const TemporaryFolder clone;
  fs::create_directories(clone.file(".git/refs/heads"));
  fs::create_directories(clone.file("build/bin"));
  EXPECT_EQ(find_git_commit(clone.file("build/bin")), "");
  write_file(clone.file(".git/HEAD"), "ref: refs/heads/main\n");
  EXPECT_EQ(find_git_commit(clone.file("build/bin")), "");  // no commit yet
  write_file(clone.file(".git/packed-refs"),
             "# pack-refs\n1111 refs/heads/other\n2222 refs/heads/main\n");
  EXPECT_EQ(find_git_commit(clone.file("build/bin")), "2222");
  write_file(clone.file(".git/refs/heads/main"), "3333\n");
  EXPECT_EQ(find_git_commit(clone.path()), "3333");
  write_file(clone.file(".git/HEAD"), "4444\n");
  EXPECT_EQ(find_git_commit(clone.path()), "4444");
  EXPECT_EQ(find_git_commit(""), "");
}

}  // namespace
}  // namespace swiattn
