#include "base/file_system.h"

#include <sys/stat.h>

#include <cerrno>

#include "tests/base/expect_error.h"
#include "tests/base/fault_file_system.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

FileSystem& files() { return FileSystem::posix(); }
std::string contents(const std::string& path) { return read_file(path, ExitCode::kData); }

TEST(FileSystem, CreatesTruncatesAndAppends) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a");
  files().create(path)->append("long contents");
  files().create(path)->append("ab");
  auto file = files().open_for_append(path);
  file->append("cd");
  file->sync();
  EXPECT_EQ(contents(path), "abcd");
  file->append("e");
  file->close();
  file->close();  // harmless
  EXPECT_EQ(contents(path), "abcde");
  EXPECT_EQ(file_size(path, ExitCode::kData), 5u);
  files().open_for_append(folder.file("new"))->append("x");
  EXPECT_EQ(contents(folder.file("new")), "x");
}

TEST(FileSystem, RenamesReplacesRemovesAndTruncates) {
  const TemporaryFolder folder;
  write_file(folder.file("a"), "12345");
  write_file(folder.file("b"), "old");
  files().rename(folder.file("a"), folder.file("b"));
  EXPECT_FALSE(file_exists(folder.file("a")));
  EXPECT_EQ(contents(folder.file("b")), "12345");
  files().truncate(folder.file("b"), 2);
  EXPECT_EQ(contents(folder.file("b")), "12");
  files().remove_file(folder.file("b"));
  EXPECT_FALSE(file_exists(folder.file("b")));
}

TEST(FileSystem, MakesAndRemovesFolders) {
  const TemporaryFolder folder;
  files().make_folders(folder.file("x/y/z"));
  files().make_folders(folder.file("x/y/z"));
  files().make_folders(folder.file("x/w/"));
  EXPECT_TRUE(folder_exists(folder.file("x/y/z")));
  EXPECT_FALSE(file_exists(folder.file("x")));
  write_file(folder.file("x/y/f"), "");
  EXPECT_THAT(list_folder(folder.file("x"), ExitCode::kData), ElementsAre("w", "y"));
  files().sync_folder(folder.file("x"));
  files().remove_folder_tree(folder.file("x"));
  EXPECT_FALSE(folder_exists(folder.file("x")));
  EXPECT_NO_THROW(files().remove_folder_tree(folder.file("x")));
}

TEST(FileSystem, FailuresNameThePathTheReasonAndTheSystemError) {
  const TemporaryFolder folder;
  const std::string missing = folder.file("missing/a");
  write_file(folder.file("file"), "");
  const auto refused = [&](auto action, int system_error) {
    try {
      action();
      ADD_FAILURE() << "no error";
    } catch (const FileError& error) {
      EXPECT_EQ(error.system_error(), system_error) << error.what();
      EXPECT_FALSE(error.disk_full());
      EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
      EXPECT_THAT(error.what(), HasSubstr(folder.path()));
      EXPECT_THAT(error.what(), HasSubstr("cannot be"));
    }
  };
  refused([&] { files().create(missing); }, ENOENT);
  refused([&] { files().open_for_append(missing); }, ENOENT);
  refused([&] { files().rename(missing, folder.file("x")); }, ENOENT);
  refused([&] { files().remove_file(missing); }, ENOENT);
  refused([&] { files().truncate(missing, 0); }, ENOENT);
  refused([&] { files().sync_folder(missing); }, ENOENT);
  refused([&] { files().sync_folder(folder.file("file")); }, ENOTDIR);
  refused([&] { files().make_folders(folder.file("file")); }, EEXIST);
  refused([&] { files().make_folders(folder.file("file/sub")); }, EEXIST);
  refused([&] { files().create(folder.path()); }, EISDIR);
}

TEST(FileSystem, AFullDiskIsRecognised) {
  if (!file_exists("/dev/full")) GTEST_SKIP() << "this machine has no /dev/full";
  auto file = files().open_for_append("/dev/full");
  try {
    file->append("x");
    FAIL() << "no error";
  } catch (const FileError& error) {
    EXPECT_TRUE(error.disk_full());
    EXPECT_THAT(error.what(), HasSubstr("'/dev/full' cannot be written: No space left"));
  }
  EXPECT_TRUE(FileError(ExitCode::kData, "", EDQUOT).disk_full());
}

TEST(ReadFile, ReadsEverythingUpToTheLimit) {
  const TemporaryFolder folder;
  const std::string bytes("a\0b\n", 4);
  write_file(folder.file("a"), bytes);
  EXPECT_EQ(read_file(folder.file("a"), ExitCode::kData, 4), bytes);
  EXPECT_THAT(
      sentence_of(ExitCode::kData, [&] { read_file(folder.file("a"), ExitCode::kData, 3); }),
      HasSubstr("larger than the 3 bytes"));
  write_file(folder.file("empty"), "");
  EXPECT_EQ(contents(folder.file("empty")), "");
  EXPECT_FALSE(contents("/proc/self/status").empty());  // its size is given as 0
}

TEST(ReadFile, WhatCannotBeReadIsNamedUnderTheCallersCode) {
  const TemporaryFolder folder;
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { contents(folder.file("none")); }),
              HasSubstr("none' cannot be opened: No such file"));
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { contents(folder.path()); }),
              HasSubstr("Is a directory"));
  EXPECT_THAT(
      sentence_of(ExitCode::kData, [&] { file_size(folder.file("none"), ExitCode::kData); }),
      HasSubstr("none"));
  EXPECT_THAT(
      sentence_of(ExitCode::kData, [&] { list_folder(folder.file("none"), ExitCode::kData); }),
      HasSubstr("none' cannot be listed"));
}

TEST(FreeBytes, SaysSomethingSensibleOrNamesTheFolder) {
  const TemporaryFolder folder;
  EXPECT_GT(free_bytes(folder.path()), 0u);
  EXPECT_THAT(sentence_of(ExitCode::kCheckpoint, [&] { free_bytes(folder.file("none")); }),
              HasSubstr("none"));
}

TEST(MappedFile, ShowsTheBytesAndMoves) {
  const TemporaryFolder folder;
  write_file(folder.file("a"), "hello");
  MappedFile first(folder.file("a"), ExitCode::kData);
  ASSERT_EQ(first.size(), 5u);
  EXPECT_EQ(static_cast<char>(first.data()[4]), 'o');
  MappedFile second = std::move(first);
  EXPECT_EQ(first.size(), 0u);
  EXPECT_EQ(first.data(), nullptr);
  EXPECT_EQ(static_cast<char>(second.data()[0]), 'h');
  EXPECT_EQ(second.path(), folder.file("a"));
  write_file(folder.file("b"), "x");
  second = MappedFile(folder.file("b"), ExitCode::kData);
  EXPECT_EQ(second.size(), 1u);
}

TEST(MappedFile, AnEmptyFileGivesAnEmptyView) {
  const TemporaryFolder folder;
  write_file(folder.file("a"), "");
  const MappedFile file(folder.file("a"), ExitCode::kData);
  EXPECT_EQ(file.size(), 0u);
  EXPECT_EQ(file.data(), nullptr);
}

TEST(MappedFile, AMissingFileOrAFolderIsRefused) {
  const TemporaryFolder folder;
  EXPECT_THAT(
      sentence_of(ExitCode::kData, [&] { MappedFile(folder.file("none"), ExitCode::kData); }),
      HasSubstr("none"));
  EXPECT_THAT(sentence_of(ExitCode::kData, [&] { MappedFile(folder.path(), ExitCode::kData); }),
              HasSubstr("Is a directory"));
}

TEST(MappedFile, APipeIsRefusedAndNotWaitedFor) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo(folder.file("pipe").c_str(), 0600), 0);
  EXPECT_THAT(
      sentence_of(ExitCode::kData, [&] { MappedFile(folder.file("pipe"), ExitCode::kData); }),
      HasSubstr("no regular file"));
}

TEST(WriteFileAtomically, WritesTheContentsAndLeavesNothingElse) {
  const TemporaryFolder folder;
  write_file_atomically(files(), folder.file("a"), "one");
  write_file_atomically(files(), folder.file("a"), "two");
  EXPECT_EQ(contents(folder.file("a")), "two");
  EXPECT_THAT(list_folder(folder.path(), ExitCode::kData), ElementsAre("a"));
}

TEST(WriteFileAtomically, AnyFailingCallLeavesTheOldContentsOrTheNew) {
  for (auto fault : {FaultFileSystem::Fault::kOnce, FaultFileSystem::Fault::kLasting,
                     FaultFileSystem::Fault::kShortWrite}) {
    int failures = 0;
    for (int call = 1; call < 20; ++call) {
      const TemporaryFolder folder;
      write_file(folder.file("a"), "old contents");
      FaultFileSystem faulty;
      faulty.inject(call, fault, ENOSPC);
      try {
        write_file_atomically(faulty, folder.file("a"), "new contents");
        EXPECT_FALSE(faulty.triggered());
        break;
      } catch (const FileError& error) {
        EXPECT_TRUE(error.disk_full());
        ++failures;
      }
      EXPECT_THAT(contents(folder.file("a")), testing::AnyOf("old contents", "new contents"));
    }
    EXPECT_EQ(failures, 6);  // create, append, sync, close, rename, sync of the folder
  }
}

TEST(WriteFileAtomically, APowerCutAtAnyCallLeavesTheOldContentsOrTheNew) {
  for (auto names : {FaultFileSystem::Names::kLost, FaultFileSystem::Names::kKept}) {
    for (int call = 1; call <= 7; ++call) {
      const TemporaryFolder folder;
      write_file(folder.file("a"), "old contents");
      FaultFileSystem faulty;
      faulty.inject(call, FaultFileSystem::Fault::kPowerCut);
      bool done = true;
      try {
        write_file_atomically(faulty, folder.file("a"), "new contents");
      } catch (const FileError&) {
        done = false;
      }
      EXPECT_EQ(done, call == 7);
      faulty.lose_unsynced(names);
      if (done) {
        EXPECT_EQ(contents(folder.file("a")), "new contents");
      } else {
        EXPECT_THAT(contents(folder.file("a")), testing::AnyOf("old contents", "new contents"));
      }
    }
  }
}

}  // namespace
}  // namespace swiattn
