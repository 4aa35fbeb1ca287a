#include "trainer/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>

#include "base/host.h"
#include "checkpoint/checkpoint_names.h"
#include "tests/base/fault_file_system.h"
#include "tests/base/temporary_folder.h"
#include "trainer/environment.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  std::string refusal_of_trial(const std::string& path, FileSystem& files = FileSystem::posix()) {
    try {
      try_run_folder(files, path);
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
  EXPECT_EQ(refusal_of_trial(path_ + "/"), "");
  EXPECT_FALSE(fs::exists(folder_.file("runs")));
  const auto held = open();
  EXPECT_EQ(refusal_of_trial(path_), "");
  EXPECT_THAT(list_folder(path_, ExitCode::kInternal), ElementsAre(".lock"));
  write_file(folder_.file("file"), "x");
  for (const std::string& path : {folder_.file("file"), folder_.file("file/below"),
                                  folder_.file("new/" + std::string(300, 'x'))}) {
    EXPECT_THAT(refusal_of_trial(path), HasSubstr("run.folder: '" + path + "' cannot be used"));
  }
  EXPECT_THAT(list_folder(folder_.path(), ExitCode::kInternal), ElementsAre("file", "runs"));
}

TEST_F(RunFolderTest, CanBeTriedWithAnyWayOfWritingThePath) {
  const fs::path before = fs::current_path();
  fs::current_path(folder_.path());
  fs::create_directory("there");
  fs::create_directory_symlink("there", "link");
  for (const std::string path : {"new", "./new//run/", "there/../new", "new/../../beside/run",
                                 "link/run", "there", ".", "link"}) {
    EXPECT_EQ(refusal_of_trial(path), "") << path;
  }
  fs::current_path(before);
  EXPECT_THAT(list_folder(folder_.path(), ExitCode::kInternal), ElementsAre("link", "there"));
  EXPECT_THAT(list_folder(folder_.file("there"), ExitCode::kInternal), IsEmpty());
}

TEST_F(RunFolderTest, LinksOnThePathOfATrialStay) {
  const std::string link = folder_.file("link");
  for (const std::string target : {"/nowhere/mounted", "link"}) {
    fs::create_symlink(target, link);
    for (const std::string below : {"", "/", "/runs", "/runs/x"}) {
      EXPECT_THAT(refusal_of_trial(link + below), HasSubstr("cannot be used")) << target << below;
      EXPECT_THAT(refusal(link + below), HasSubstr("cannot be used")) << target << below;
      ASSERT_TRUE(fs::is_symlink(link)) << target << below;
    }
    fs::remove(link);
  }
}

// A run that starts at the same moment loses nothing that it has just made, and gets nothing that
// is about to be removed.
TEST_F(RunFolderTest, ATrialDoesNotTouchThePathItself) {
  class Watched : public FaultFileSystem {
   public:
    explicit Watched(std::string outermost) : outermost_(std::move(outermost)) {}
    void make_folders(const std::string& path) override {
      FaultFileSystem::make_folders(path);
      EXPECT_TRUE(folder_exists(path));
      EXPECT_FALSE(fs::exists(outermost_));
      fs::create_directories(outermost_ + "/demo");  // the run
    }

   private:
    const std::string outermost_;  // missing part of the path
  };
  Watched files(folder_.file("runs"));
  EXPECT_NO_THROW(try_run_folder(files, path_));
  EXPECT_TRUE(folder_exists(path_));
  EXPECT_THAT(list_folder(folder_.path(), ExitCode::kInternal), ElementsAre("runs"));
}

TEST_F(RunFolderTest, ATrialGoesWrongWithTheFileSystem) {
  for (const int call : {1, 2}) {
    FaultFileSystem files;
    files.inject(call, FaultFileSystem::Fault::kOnce, EROFS);
    EXPECT_THAT(refusal_of_trial(path_, files),
                AllOf(HasSubstr("cannot be used: in a trial, "), HasSubstr("injected fault")))
        << call;
    EXPECT_FALSE(fs::exists(folder_.file("runs")));
  }
}

TEST_F(RunFolderTest, KnowsWhetherItHoldsARun) {
  const auto run = open();
  EXPECT_FALSE(holds_a_run(run->path()));
  write_file(run->metrics(), "");
  fs::create_directory(run->checkpoints());
  EXPECT_FALSE(holds_a_run(run->path()));
  fs::create_directory(run->checkpoints() + "/" + temporary_name(1));
  EXPECT_FALSE(holds_a_run(run->path()));
  fs::create_directory(run->checkpoints() + "/step-00000001.corrupt");
  EXPECT_TRUE(holds_a_run(run->path()));
  fs::remove_all(run->checkpoints());
  write_file(run->metrics(), "{}\n");
  EXPECT_TRUE(holds_a_run(run->path()));
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
