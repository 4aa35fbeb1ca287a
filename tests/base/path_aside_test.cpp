#include "base/path_aside.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "tests/base/fault_file_system.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class PathAsideTest : public ::testing::Test {
 protected:
  std::string aside() const { return path_aside(folder_.file("export"), "superseded"); }

  TemporaryFolder folder_;
};

TEST_F(PathAsideTest, IsTheFirstNameThatNothingHas) {
  EXPECT_EQ(aside(), folder_.file("export.superseded"));
  std::filesystem::create_directory(folder_.file("export.superseded"));
  EXPECT_EQ(aside(), folder_.file("export.superseded-2"));
  write_file(folder_.file("export.superseded-2"), "a file");
  EXPECT_EQ(aside(), folder_.file("export.superseded-3"));
  std::filesystem::create_symlink("nowhere", folder_.file("export.superseded-3"));
  EXPECT_EQ(aside(), folder_.file("export.superseded-4"));
}

TEST_F(PathAsideTest, KeepsWhatIsSetAsideAndSaysWhereAndWhy) {
  RecordingLog log;
  write_file(folder_.file("export"), "contents");
  set_aside(FileSystem::posix(), log, folder_.path(), "export", "corrupt", "It is damaged.");
  EXPECT_EQ(log.warnings, "It is damaged. It is kept as " + folder_.file("export.corrupt") + ".\n");
  EXPECT_EQ(read_file(folder_.file("export.corrupt"), ExitCode::kInternal), "contents");
  EXPECT_FALSE(file_exists(folder_.file("export")));
}

TEST_F(PathAsideTest, WarnsOfWhatCannotBeRenamedAndLeavesIt) {
  RecordingLog log;
  write_file(folder_.file("export"), "contents");
  FaultFileSystem files;
  files.inject(1, FaultFileSystem::Fault::kOnce, EIO);
  set_aside(files, log, folder_.path(), "export", "corrupt", "It is damaged.");
  EXPECT_THAT(log.warnings, AllOf(HasSubstr("It is damaged. It cannot be renamed: "),
                                  HasSubstr("injected fault"), Not(HasSubstr("kept as"))));
  EXPECT_EQ(read_file(folder_.file("export"), ExitCode::kInternal), "contents");
}

}  // namespace
}  // namespace swiattn
