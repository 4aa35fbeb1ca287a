#include "tests/base/fault_file_system.h"

#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using Fault = FaultFileSystem::Fault;
using Names = FaultFileSystem::Names;

std::string contents(const std::string& path) { return read_file(path, ExitCode::kData); }

TEST(FaultFileSystem, WithoutAFaultItIsTheRealFileSystem) {
  const TemporaryFolder folder;
  FaultFileSystem files;
  files.make_folders(folder.file("x/y"));
  auto file = files.create(folder.file("x/y/a"));
  file->append("12345");
  file->sync();
  file->close();
  files.rename(folder.file("x/y/a"), folder.file("x/b"));
  files.truncate(folder.file("x/b"), 3);
  files.open_for_append(folder.file("x/b"))->append("!");
  EXPECT_EQ(contents(folder.file("x/b")), "123!");
  files.remove_file(folder.file("x/b"));
  files.sync_folder(folder.file("x"));
  files.remove_folder_tree(folder.file("x"));
  EXPECT_FALSE(folder_exists(folder.file("x")));
  EXPECT_EQ(files.calls(), 12);
  EXPECT_FALSE(files.triggered());
}

TEST(FaultFileSystem, ExactlyTheChosenCallFails) {
  const TemporaryFolder folder;
  FaultFileSystem files;
  auto file = files.create(folder.file("a"));
  files.inject(2, Fault::kOnce, ENOSPC);
  file->append("one");
  EXPECT_FALSE(files.triggered());
  try {
    file->append("two");
    FAIL() << "no error";
  } catch (const FileError& error) {
    EXPECT_EQ(error.system_error(), ENOSPC);
  }
  EXPECT_TRUE(files.triggered());
  file->append("three");
  EXPECT_EQ(contents(folder.file("a")), "onethree");
}

TEST(FaultFileSystem, ALastingFaultStays) {
  const TemporaryFolder folder;
  FaultFileSystem files;
  files.inject(1, Fault::kLasting);
  for (int i = 0; i < 3; ++i) EXPECT_THROW(files.create(folder.file("a")), FileError);
  EXPECT_FALSE(file_exists(folder.file("a")));
}

TEST(FaultFileSystem, AShortWriteLeavesHalfOfTheBytes) {
  const TemporaryFolder folder;
  FaultFileSystem files;
  auto file = files.create(folder.file("a"));
  files.inject(1, Fault::kShortWrite);
  EXPECT_THROW(file->append("12345678"), FileError);
  EXPECT_EQ(contents(folder.file("a")), "1234");
  files.inject(1, Fault::kShortWrite);
  EXPECT_THROW(file->sync(), FileError);
  files.inject(1, Fault::kShortWrite);
  EXPECT_THROW(files.create(folder.file("b")), FileError);
  EXPECT_FALSE(file_exists(folder.file("b")));
}

TEST(FaultFileSystem, UnsyncedBytesAreLostAndSyncedOnesStay) {
  for (Names names : {Names::kLost, Names::kKept}) {
    const TemporaryFolder folder;
    write_file(folder.file("log"), "before ");
    FaultFileSystem files;
    auto file = files.open_for_append(folder.file("log"));
    file->append("synced ");
    file->sync();
    files.lose_unsynced(names);
    EXPECT_EQ(contents(folder.file("log")), "before synced ");
    EXPECT_THROW(file->append("x"), FileError);
  }
}

TEST(FaultFileSystem, BytesAfterTheLastSyncAreLost) {
  const TemporaryFolder folder;
  write_file(folder.file("log"), "before ");
  FaultFileSystem files;
  auto file = files.open_for_append(folder.file("log"));
  file->append("synced ");
  file->sync();
  file->append("not synced");
  files.lose_unsynced(Names::kKept);
  EXPECT_EQ(contents(folder.file("log")), "before synced ");
}

TEST(FaultFileSystem, ATruncatedFileComesBackUnlessSynced) {
  const TemporaryFolder folder;
  write_file(folder.file("a"), "12345");
  FaultFileSystem files;
  files.truncate(folder.file("a"), 1);
  files.lose_unsynced(Names::kLost);
  EXPECT_EQ(contents(folder.file("a")), "12345");
}

TEST(FaultFileSystem, ARenameWithoutSyncingTheFileMayLeaveAnEmptyFile) {
  const TemporaryFolder folder;
  write_file(folder.file("a"), "old");
  FaultFileSystem files;
  files.create(folder.file("a.tmp"))->append("new");
  files.rename(folder.file("a.tmp"), folder.file("a"));
  files.sync_folder(folder.path());
  files.lose_unsynced(Names::kLost);
  EXPECT_EQ(contents(folder.file("a")), "");
}

TEST(FaultFileSystem, ARenameWithoutSyncingTheFolderMayBeUndone) {
  for (Names names : {Names::kLost, Names::kKept}) {
    const TemporaryFolder folder;
    write_file(folder.file("a"), "old");
    FaultFileSystem files;
    auto file = files.create(folder.file("a.tmp"));
    file->append("new");
    file->sync();
    files.rename(folder.file("a.tmp"), folder.file("a"));
    files.lose_unsynced(names);
    EXPECT_EQ(contents(folder.file("a")), names == Names::kLost ? "old" : "new");
    EXPECT_FALSE(file_exists(folder.file("a.tmp")));
  }
}

TEST(FaultFileSystem, ARemovalWithoutSyncingTheFolderMayBeUndone) {
  const TemporaryFolder folder;
  FileSystem::posix().make_folders(folder.file("x/y"));
  write_file(folder.file("x/y/a"), "a");
  write_file(folder.file("b"), "b");
  FaultFileSystem files;
  files.remove_folder_tree(folder.file("x"));
  files.remove_file(folder.file("b"));
  EXPECT_FALSE(folder_exists(folder.file("x")));
  files.lose_unsynced(Names::kLost);
  EXPECT_EQ(contents(folder.file("x/y/a")), "a");
  EXPECT_EQ(contents(folder.file("b")), "b");
}

// The protocol of a checkpoint: files in a temporary folder, renamed as a whole.
void write_folder(FileSystem& files, const std::string& root, bool sync_inner) {
  files.make_folders(root + "/step.tmp");
  auto file = files.create(root + "/step.tmp/weights");
  file->append("weights");
  file->sync();
  file->close();
  if (sync_inner) files.sync_folder(root + "/step.tmp");
  files.rename(root + "/step.tmp", root + "/step");
  files.sync_folder(root);
}

TEST(FaultFileSystem, ARenamedFolderKeepsItsFilesOnlyWhenItWasSyncedItself) {
  for (bool sync_inner : {true, false}) {
    const TemporaryFolder folder;
    FaultFileSystem files;
    write_folder(files, folder.path(), sync_inner);
    EXPECT_TRUE(file_exists(folder.file("step/weights")));
    files.lose_unsynced(Names::kLost);
    EXPECT_TRUE(folder_exists(folder.file("step")));
    EXPECT_EQ(file_exists(folder.file("step/weights")), sync_inner);
  }
}

TEST(FaultFileSystem, AFolderSyncedUnderItsNewNameKeepsItsFiles) {
  const TemporaryFolder folder;
  FaultFileSystem files;
  write_folder(files, folder.path(), false);
  files.sync_folder(folder.file("step"));
  files.lose_unsynced(Names::kLost);
  EXPECT_EQ(contents(folder.file("step/weights")), "weights");
}

TEST(FaultFileSystem, AnUndoneFolderRenameBringsBackTheOldName) {
  const TemporaryFolder folder;
  FaultFileSystem files;
  files.make_folders(folder.file("step.tmp"));
  auto file = files.create(folder.file("step.tmp/weights"));
  file->append("weights");
  files.sync_folder(folder.file("step.tmp"));
  files.rename(folder.file("step.tmp"), folder.file("step"));
  files.lose_unsynced(Names::kLost);
  EXPECT_FALSE(folder_exists(folder.file("step")));
  EXPECT_EQ(contents(folder.file("step.tmp/weights")), "");  // its bytes were never synced
}

}  // namespace
}  // namespace swiattn
