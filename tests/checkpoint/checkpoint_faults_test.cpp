// Saves in which any single file operation fails, or at which the power is cut.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/checkpoint_names.h"
#include "checkpoint/checkpoint_store.h"
#include "tests/base/fault_file_system.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"
#include "tests/checkpoint/small_checkpoint.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Fault = FaultFileSystem::Fault;
using Names = FaultFileSystem::Names;

// A run with steps 100 and 200 saved; the operation under test saves 300 and prunes to two.
class FaultyStoreTest : public ::testing::Test {
 protected:
  struct Setting {
    TemporaryFolder run;
    FaultFileSystem files;
    RecordingLog log;
    CheckpointStore store{files, run.file("checkpoints"), log};

    Setting() {
      save(files, store, 100);
      save(files, store, 200);
    }
    void save_and_prune() {
      save(files, store, 300);
      store.prune(2, std::nullopt);
    }
  };

  static int count_calls() {
    Setting setting;
    setting.files.inject(0, Fault::kOnce);
    setting.save_and_prune();
    return setting.files.calls();
  }

  // The newest checkpoint by a fresh reader without faults; its payload must be that of its step.
  static int64_t newest(const Setting& setting) {
    RecordingLog log;
    CheckpointStore store(FileSystem::posix(), setting.run.file("checkpoints"), log);
    const auto found = store.newest_valid();
    if (!found) return -1;
    EXPECT_EQ(read_file(found->path("weights.safetensors"), ExitCode::kInternal),
              weights_of(found->step()));
    // Nothing was damaged, so nothing may be called damaged.
    EXPECT_THAT(log.warnings, ::testing::Not(HasSubstr("corrupt")));
    return found->step();
  }
};

TEST_F(FaultyStoreTest, HasSomeCallsToFail) { EXPECT_GT(count_calls(), 15); }

TEST_F(FaultyStoreTest, AnyCallThatFailsLeavesTheOldOrTheNewAndTheNextSaveWorks) {
  const int calls = count_calls();
  for (const int error : {EIO, ENOSPC}) {
    for (const Fault fault : {Fault::kOnce, Fault::kLasting, Fault::kShortWrite}) {
      for (int call = 1; call <= calls; ++call) {
        SCOPED_TRACE(
            fmt::format("call {} fault {} error {}", call, static_cast<int>(fault), error));
        Setting setting;
        setting.files.inject(call, fault, error);
        bool reported = false;
        try {
          setting.save_and_prune();
        } catch (const FileError& failure) {
          reported = true;
          EXPECT_EQ(failure.code(), ExitCode::kCheckpoint);
          EXPECT_EQ(failure.disk_full(), error == ENOSPC);
        }
        EXPECT_TRUE(setting.files.triggered());
        const int64_t found = newest(setting);
        EXPECT_TRUE(found == 300 || (reported && found == 200)) << found;

        setting.files.inject(0, Fault::kOnce);
        save(setting.files, setting.store, 400);
        setting.store.prune(2, std::nullopt);
        EXPECT_EQ(newest(setting), 400);
        EXPECT_EQ(setting.store.steps().size(), 2U);
        for (const auto& name : list_folder(setting.run.file("checkpoints"), ExitCode::kInternal)) {
          EXPECT_FALSE(is_temporary_name(name)) << name;
        }
      }
    }
  }
}

TEST_F(FaultyStoreTest, APowerCutAtAnyCallLeavesTheOldOrTheNewAndTheNextSaveWorks) {
  const int calls = count_calls();
  for (const Names names : {Names::kLost, Names::kKept}) {
    for (int call = 1; call <= calls + 1; ++call) {
      SCOPED_TRACE(fmt::format("call {} names {}", call, static_cast<int>(names)));
      Setting setting;
      setting.files.inject(call, Fault::kPowerCut);
      bool reported = false;
      try {
        setting.save_and_prune();
      } catch (const FileError&) {
        reported = true;
      }
      setting.files.lose_unsynced(names);
      const int64_t found = newest(setting);
      EXPECT_TRUE(found == 300 || (reported && found == 200)) << found;

      RecordingLog log;
      CheckpointStore after(FileSystem::posix(), setting.run.file("checkpoints"), log);
      save(FileSystem::posix(), after, 400);
      after.prune(2, std::nullopt);
      EXPECT_EQ(newest(setting), 400);
      EXPECT_EQ(after.steps().size(), 2U);
    }
  }
}

TEST_F(FaultyStoreTest, ACommitThatReturnedSurvivesAPowerCut) {
  for (const Names names : {Names::kLost, Names::kKept}) {
    Setting setting;
    save(setting.files, setting.store, 300);
    setting.files.lose_unsynced(names);
    EXPECT_EQ(newest(setting), 300);
  }
}

TEST_F(FaultyStoreTest, NothingIsDeletedBeforeTheNewCheckpointIsCommitted) {
  const int calls = count_calls();
  for (int call = 1; call <= calls; ++call) {
    Setting setting;
    setting.files.inject(call, Fault::kLasting);
    if (call < calls) {
      EXPECT_THROW(setting.save_and_prune(), FileError) << call;
    } else {  // the last one removes what has lost its name already
      EXPECT_NO_THROW(setting.save_and_prune());
      EXPECT_THAT(setting.log.warnings, HasSubstr("tried again at the next save"));
    }
    if (!folder_exists(setting.store.path(300))) {
      EXPECT_THAT(setting.store.steps(), ElementsAre(100, 200)) << call;
    }
  }
}

// LATEST takes six calls: create, append, sync, close, rename and the sync of the folder.
TEST_F(FaultyStoreTest, AFailedReplacementOfLatestIsOnlyAWarningAndLosesNothing) {
  // Counted from the end: pruning takes three calls, of which the last only warns, the file LATEST
  // the five before them and a sync.
  const int calls = count_calls();
  int warnings = 0;
  for (int call = 1; call <= calls; ++call) {
    Setting setting;
    setting.files.inject(call, Fault::kOnce);
    try {
      setting.save_and_prune();
      EXPECT_THAT(setting.log.warnings,
                  AnyOf(HasSubstr("LATEST"), HasSubstr("tried again at the next save")));
      setting.files.lose_unsynced(Names::kLost);
      EXPECT_EQ(newest(setting), 300);
      ++warnings;
    } catch (const FileError&) {
    }
  }
  EXPECT_EQ(warnings, 7);
}

// A crash can stop a removal between two files of a folder.
TEST_F(FaultyStoreTest, ARemovalThatStopsHalfwayLeavesNoDamagedCheckpoint) {
  class HalfRemoving : public FaultFileSystem {
   public:
    void remove_folder_tree(const std::string& path) override {
      FileSystem::posix().remove_file(path + "/" + kManifestName);
      throw FileError(ExitCode::kCheckpoint, "stopped", EIO);
    }
  };
  Setting setting;
  HalfRemoving files;
  RecordingLog log;
  CheckpointStore store(files, setting.run.file("checkpoints"), log);
  EXPECT_THAT(store.prune(1, std::nullopt), ElementsAre(100));
  EXPECT_THAT(log.warnings, HasSubstr("stopped"));
  EXPECT_THAT(store.steps(), ElementsAre(200));
  setting.store.remove_leftovers();
  EXPECT_THAT(list_folder(setting.run.file("checkpoints"), ExitCode::kInternal),
              ElementsAre("LATEST", "step-00000200"));
}

TEST_F(FaultyStoreTest, EvidenceThatCannotBeRenamedDoesNotStopTheFallback) {
  for (const Fault fault : {Fault::kOnce, Fault::kLasting}) {
    Setting setting;
    write_file(setting.store.path(200) + "/state.json", "[]");
    setting.files.inject(1, fault, EROFS);
    EXPECT_EQ(setting.store.newest_valid()->step(), 100);
    EXPECT_TRUE(folder_exists(setting.store.path(200)));
  }
}

}  // namespace
}  // namespace swiattn
