#include "checkpoint/checkpoint_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "checkpoint/checkpoint_names.h"
#include "tests/base/recording_log.h"
#include "tests/base/temporary_folder.h"
#include "tests/checkpoint/newer_format.h"
#include "tests/checkpoint/small_checkpoint.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CheckpointStoreTest : public ::testing::Test {
 protected:
  CheckpointStore store() { return CheckpointStore(FileSystem::posix(), folder(), log_); }
  void save(int64_t step) {
    CheckpointStore all = store();
    swiattn::save(FileSystem::posix(), all, step);
  }
  std::string folder() const { return run_.file("checkpoints"); }
  std::string path(int64_t step, const std::string& name = "") const {
    return folder() + "/" + checkpoint_folder_name(step) + (name.empty() ? "" : "/" + name);
  }
  std::string contents(const std::string& path) { return read_file(path, ExitCode::kInternal); }
  std::vector<std::string> names() { return list_folder(folder(), ExitCode::kInternal); }

  TemporaryFolder run_;
  RecordingLog log_;
};

TEST_F(CheckpointStoreTest, FindsWhatItSaved) {
  save(500);
  const auto found = store().newest_valid();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->manifest().fields, (ManifestFields{500, 500 * 4096, 1, 42}));
  EXPECT_EQ(contents(found->path("weights.safetensors")), weights_of(500));
  EXPECT_EQ(contents(found->path("state.json")), "{}");
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000500"));
  EXPECT_EQ(contents(folder() + "/LATEST"), "step-00000500\n");
  EXPECT_EQ(log_.warnings, "");
}

TEST_F(CheckpointStoreTest, OfANewRunHasNothing) {
  EXPECT_FALSE(store().newest_valid());
  EXPECT_THAT(store().steps(), IsEmpty());
  store().remove_leftovers();
}

TEST_F(CheckpointStoreTest, OrdersStepsByNumberAlsoPastEightDigits) {
  for (const int64_t step : {99999999, 100000000, 5}) save(step);
  EXPECT_THAT(store().steps(), ElementsAre(5, 99999999, 100000000));
  EXPECT_EQ(store().newest_valid()->step(), 100000000);
}

TEST_F(CheckpointStoreTest, TrustsNoFolderForItsName) {
  save(100);
  for (const char* name : {"step-200", "step-00000200.bak", "step-0000200", "checkpoint-300",
                           "step--0000001", "step-00000400.tmp.0123", "step-+0000001"}) {
    fs::copy(path(100), folder() + "/" + name);
  }
  EXPECT_THAT(store().steps(), ElementsAre(100));
  EXPECT_EQ(store().newest_valid()->step(), 100);
}

TEST_F(CheckpointStoreTest, RefusesAFolderRenamedToAnotherStep) {
  save(100);
  fs::copy(path(100), path(200));
  EXPECT_EQ(store().newest_valid()->step(), 100);
  EXPECT_THAT(log_.warnings, HasSubstr("that of step 100"));
  EXPECT_TRUE(folder_exists(path(200) + ".corrupt"));
}

TEST_F(CheckpointStoreTest, AcceptsACopyUnderAnotherName) {
  save(100);
  fs::copy(path(100), run_.file("best"));
  EXPECT_EQ(SavedCheckpoint(run_.file("best") + "/", CheckpointTest::kHashes).step(), 100);
}

TEST_F(CheckpointStoreTest, DoesNotTrustLatest) {
  save(100);
  save(200);
  write_file(folder() + "/LATEST", "step-00000100\n");
  EXPECT_EQ(store().newest_valid()->step(), 200);
  EXPECT_EQ(log_.warnings, "");
  for (const char* text : {"step-00000300\n", "", "../../elsewhere\n"}) {
    log_.warnings.clear();
    write_file(folder() + "/LATEST", text);
    EXPECT_EQ(store().newest_valid()->step(), 200);
    EXPECT_THAT(log_.warnings, HasSubstr("LATEST names")) << text;
  }
}

TEST_F(CheckpointStoreTest, FallsBackPastDamagedOnesAndKeepsThemAsEvidence) {
  for (const int64_t step : {100, 200, 300}) save(step);
  fs::remove(path(300, "MANIFEST.json"));
  write_file(path(200, "weights.safetensors"), "other");
  const auto found = store().newest_valid();
  EXPECT_EQ(found->step(), 100);
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000100", "step-00000200.corrupt",
                                   "step-00000300.corrupt"));
  EXPECT_EQ(contents(folder() + "/LATEST"), "step-00000100\n");
  EXPECT_THAT(log_.warnings, HasSubstr("step-00000300/MANIFEST.json"));
  EXPECT_THAT(log_.warnings, HasSubstr("step-00000200/weights.safetensors"));
  EXPECT_THAT(log_.warnings, HasSubstr("Falling back to " + path(100)));
}

TEST_F(CheckpointStoreTest, KeepsEveryPieceOfEvidence) {
  for (int round = 0; round < 3; ++round) {
    save(100);
    fs::remove(path(100, "state.json"));
    EXPECT_THROW(store().newest_valid(), Error);
  }
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000100.corrupt", "step-00000100.corrupt-2",
                                   "step-00000100.corrupt-3"));
}

TEST_F(CheckpointStoreTest, OfARunWithoutAnyWholeCheckpointRefusesToStartAnew) {
  save(100);
  fs::remove(path(100, "MANIFEST.json"));
  for (int start = 0; start < 2; ++start) {
    try {
      store().newest_valid();
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
      EXPECT_THAT(error.what(), HasSubstr("no checkpoint of this run verifies"));
    }
  }
  fs::remove_all(path(100) + ".corrupt");
  EXPECT_FALSE(store().newest_valid());
}

TEST_F(CheckpointStoreTest, DoesNotFallBackFromOneThatCannotBeLookedAt) {
  save(100);
  save(200);
  const std::string manifest = path(200, "MANIFEST.json");
  fs::rename(manifest, manifest + ".kept");
  fs::create_symlink("MANIFEST.json", manifest);  // a link to itself, since root may read all files
  EXPECT_THROW(store().newest_valid(), FileError);
  EXPECT_THROW(save(200), FileError);
  fs::rename(manifest + ".kept", manifest);
  EXPECT_EQ(store().newest_valid()->step(), 200);
}

TEST_F(CheckpointStoreTest, DoesNotFallBackFromANewerFormat) {
  save(100);
  save(200);
  give_newer_format(path(200));
  EXPECT_THROW(store().newest_valid(), NewerFormatError);
  EXPECT_THROW(save(200), NewerFormatError);
  EXPECT_TRUE(folder_exists(path(200)));
}

TEST_F(CheckpointStoreTest, RefusesAPathThatTheManifestDoesNotList) {
  save(100);
  write_file(path(100, "extra.json"), "{}");
  const SavedCheckpoint checkpoint(path(100), CheckpointTest::kHashes);
  EXPECT_THROW(checkpoint.path("extra.json"), Error);
}

// Each kind of damage, against each file of the checkpoint.
TEST_F(CheckpointStoreTest, NoticesEveryFlippedBitOfEveryFile) {
  save(100);
  for (const std::string name : {"MANIFEST.json", "weights.safetensors", "state.json"}) {
    const std::string good = contents(path(100, name));
    for (size_t i = 0; i < good.size(); ++i) {
      for (int bit = 0; bit < 8; ++bit) {
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
        write_file(path(100, name), bad);
        EXPECT_THROW(SavedCheckpoint(path(100), CheckpointTest::kHashes), Error)
            << name << " byte " << i << " bit " << bit;
      }
    }
    write_file(path(100, name), good);
  }
  EXPECT_EQ(SavedCheckpoint(path(100), CheckpointTest::kHashes).step(), 100);
}

TEST_F(CheckpointStoreTest, NoticesFilesCutExtendedDeletedSwappedOrReplaced) {
  save(100);
  const std::string weights = path(100, "weights.safetensors"), state = path(100, "state.json");
  const std::string manifest = path(100, "MANIFEST.json");
  const std::string good_weights = contents(weights), good_state = contents(state);
  const std::string good_manifest = contents(manifest);
  save(200);
  const std::string other_manifest = contents(path(200, "MANIFEST.json"));
  const std::vector<std::function<void()>> damages = {
      [&] { write_file(weights, good_weights.substr(1)); },
      [&] { write_file(weights, good_weights.substr(0, good_weights.size() - 1)); },
      [&] { write_file(weights, ""); },
      [&] { write_file(weights, good_weights + '\0'); },
      [&] { fs::remove(weights); },
      [&] { fs::remove(state); },
      [&] { fs::remove(manifest); },
      [&] { write_file(manifest, ""); },
      [&] { write_file(manifest, other_manifest); },
      [&] {
        fs::remove(weights);
        fs::create_directory(weights);
      },
      [&] {
        write_file(weights, good_state);
        write_file(state, good_weights);
      },
  };
  for (size_t i = 0; i < damages.size(); ++i) {
    damages[i]();
    EXPECT_THROW(SavedCheckpoint(path(100), CheckpointTest::kHashes), Error) << "damage " << i;
    fs::remove_all(weights);
    write_file(weights, good_weights);
    write_file(state, good_state);
    write_file(manifest, good_manifest);
  }
  EXPECT_EQ(SavedCheckpoint(path(100), CheckpointTest::kHashes).step(), 100);
}

TEST_F(CheckpointStoreTest, NoticesSwappedFilesOfEqualSize) {
  {
    CheckpointStore all = store();
    CheckpointWriter writer = all.begin(1, 0);
    writer.add_text("a", "first");
    writer.add_text("b", "other");
    writer.commit({1, 1, 1, 1});
  }
  fs::rename(path(1, "a"), path(1, "c"));
  fs::rename(path(1, "b"), path(1, "a"));
  fs::rename(path(1, "c"), path(1, "b"));
  EXPECT_NO_THROW(SavedCheckpoint(path(1), CheckpointTest::kSizes));
  EXPECT_THROW(SavedCheckpoint(path(1), CheckpointTest::kHashes), Error);
}

TEST_F(CheckpointStoreTest, NoticesAFlippedBitInAFileOfManyBlocks) {
  std::string large(9'000'001, 'x');
  {
    CheckpointStore all = store();
    CheckpointWriter writer = all.begin(1, 0);
    writer.add_text("large", large);
    writer.commit({1, 1, 1, 1});
  }
  EXPECT_NO_THROW(SavedCheckpoint(path(1), CheckpointTest::kHashes));
  for (const size_t at : {size_t{0}, size_t{4 << 20}, large.size() - 1}) {
    std::string bad = large;
    bad[at] ^= 1;
    write_file(path(1, "large"), bad);
    EXPECT_THROW(SavedCheckpoint(path(1), CheckpointTest::kHashes), Error) << at;
  }
}

TEST_F(CheckpointStoreTest, NamesTheFirstDamagedFileOfSeveral) {
  {
    CheckpointStore all = store();
    CheckpointWriter writer = all.begin(1, 0);
    for (int i = 0; i < 20; ++i) writer.add_text("file" + std::to_string(i), std::to_string(i));
    writer.commit({1, 1, 1, 1});
  }
  for (int i = 7; i < 10; ++i) write_file(path(1, "file" + std::to_string(i)), "x");
  try {
    SavedCheckpoint(path(1), CheckpointTest::kHashes);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("file7"));
  }
}

TEST_F(CheckpointStoreTest, KeepsAWholeCheckpointOfTheSameStep) {
  save(100);
  const std::string before = contents(path(100, "MANIFEST.json"));
  save(100);
  EXPECT_EQ(contents(path(100, "MANIFEST.json")), before);
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000100"));
  {
    CheckpointStore all = store();
    CheckpointWriter writer = all.begin(100, 0);
    writer.add_text("other", "contents");
    EXPECT_EQ(writer.commit({100, 1, 1, 1}), path(100));
  }
  // Another state of the step takes the name; the former keeps its bytes.
  EXPECT_NE(contents(path(100, "MANIFEST.json")), before);
  EXPECT_EQ(contents(path(100) + ".superseded/MANIFEST.json"), before);
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000100", "step-00000100.superseded"));
}

TEST_F(CheckpointStoreTest, ReplacesADamagedCheckpointOfTheSameStep) {
  save(100);
  write_file(path(100, "state.json"), "[]");
  save(100);
  EXPECT_EQ(contents(path(100, "state.json")), "{}");
  EXPECT_EQ(store().newest_valid()->step(), 100);
  EXPECT_TRUE(folder_exists(path(100) + ".corrupt"));
}

TEST_F(CheckpointStoreTest, LeavesNothingOfAnAbandonedSave) {
  save(100);
  {
    CheckpointStore all = store();
    CheckpointWriter writer = all.begin(200, 0);
    write_payload(FileSystem::posix(), writer, 200);
  }
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000100"));
}

TEST_F(CheckpointStoreTest, SavesOverTheLeftoversOfADeadWriter) {
  save(100);
  fs::create_directories(path(200) + ".tmp.0123456789abcdef0123456789abcdef");
  write_file(path(200) + ".tmp.0123456789abcdef0123456789abcdef/weights.safetensors", "half");
  EXPECT_EQ(store().newest_valid()->step(), 100);
  save(200);
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000100", "step-00000200"));
}

TEST_F(CheckpointStoreTest, RemovesLeftoversAndNothingElse) {
  save(100);
  for (const char* name : {"step-00000200.tmp.0123", "step-00000200.corrupt", "notes.tmp.1",
                           "step-00000300.superseded"}) {
    fs::create_directories(folder() + "/" + name);
  }
  store().remove_leftovers();
  EXPECT_THAT(names(), ElementsAre("LATEST", "notes.tmp.1", "step-00000100",
                                   "step-00000200.corrupt", "step-00000300.superseded"));
}

TEST_F(CheckpointStoreTest, RefusesToBeginWithoutRoom) {
  save(100);
  CheckpointStore all = store();
  try {
    all.begin(200, 1ULL << 60);
    FAIL();
  } catch (const FileError& error) {
    EXPECT_TRUE(error.disk_full());
    EXPECT_THAT(error.what(), HasSubstr("Make room"));
  }
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000100"));
}

TEST_F(CheckpointStoreTest, RefusesToCommitAFileThatIsNotAsItWasDescribed) {
  CheckpointStore all = store();
  CheckpointWriter writer = all.begin(100, 0);
  writer.add_text("a", "contents");
  writer.add("missing", 10, 10);
  EXPECT_THROW(writer.commit({100, 1, 1, 1}), Error);
  EXPECT_FALSE(folder_exists(path(100)));
}

TEST_F(CheckpointStoreTest, PrunesAllButTheNewestAndTheMilestones) {
  for (int64_t step = 100; step <= 1000; step += 100) save(step);
  CheckpointStore all = store();
  EXPECT_THAT(all.prune(2, 500), ElementsAre(100, 200, 300, 400, 600, 700, 800));
  EXPECT_THAT(all.steps(), ElementsAre(500, 900, 1000));
  EXPECT_THAT(all.prune(2, 500), IsEmpty());
  EXPECT_THAT(all.prune(1, std::nullopt), ElementsAre(500, 900));
  EXPECT_EQ(all.newest_valid()->step(), 1000);
}

TEST_F(CheckpointStoreTest, CountsNoDamagedCheckpointAsKeptAndRemovesNone) {
  for (const int64_t step : {100, 200, 300, 400}) save(step);
  fs::remove(path(400, "MANIFEST.json"));
  fs::remove(path(100, "state.json"));
  CheckpointStore all = store();
  EXPECT_THAT(all.prune(1, std::nullopt), ElementsAre(200));
  EXPECT_THAT(all.steps(), ElementsAre(100, 300, 400));
}

TEST_F(CheckpointStoreTest, CountsDamageThatOnlyHashesShowWhenAskedTo) {
  for (const int64_t step : {100, 200}) save(step);
  write_file(path(200, "state.json"), "[]");
  CheckpointStore all = store();
  EXPECT_THAT(all.prune(1, std::nullopt, CheckpointTest::kHashes), IsEmpty());
  EXPECT_THAT(all.prune(1, std::nullopt, CheckpointTest::kSizes), ElementsAre(100));
}

TEST_F(CheckpointStoreTest, SetsAsideWhatAnExplicitResumeAbandons) {
  for (const int64_t step : {100, 200, 300}) save(step);
  CheckpointStore all = store();
  all.set_newer_aside(100);
  EXPECT_THAT(names(), ElementsAre("LATEST", "step-00000100", "step-00000200.superseded",
                                   "step-00000300.superseded"));
  EXPECT_EQ(all.newest_valid()->step(), 100);
  log_.warnings.clear();
  save(200);
  EXPECT_EQ(all.newest_valid()->step(), 200);
  EXPECT_EQ(log_.warnings, "");
}

}  // namespace
}  // namespace swiattn
