// What a profile leaves when the disk fails: every call of the file system in turn.
#include "trainer/profiler.h"

#include <ATen/ops/ones.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <vector>

#include "../base/fault_file_system.h"
#include "../base/temporary_folder.h"
#include "base/json.h"
#include "parallel/phase.h"

namespace swiattn {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Fault = FaultFileSystem::Fault;

class Listener final : public RunObserver {
 public:
  void tell(const std::string& sentence) override { told.push_back(sentence); }
  void warn(const std::string& sentence) override { warnings.push_back(sentence); }

  std::vector<std::string> told, warnings;
};

// Profiles one step of `operators` calls into ROOT/profile.
Listener profile_step(FileSystem& files, const std::string& root, int64_t step, int operators = 2) {
  Listener listener;
  Profiler profiler(files, root + "/profile", {step, 1}, c10::kCPU, "device", listener);
  profiler.before_step(step);
  {
    const NamedRange range(kStepRange + std::to_string(step));
    for (int i = 0; i < operators; ++i) at::ones({4});
  }
  profiler.finish();
  return listener;
}

// What a folder holds: the whole profile of one step, or its tables alone.
struct Held {
  int64_t step = 0;  // 0: there is no such folder
  bool traced = false;

  bool operator==(const Held&) const = default;
};

Held held(const std::string& folder) {
  if (!folder_exists(folder)) return {};
  const bool traced = file_exists(folder + "/trace.json");
  EXPECT_EQ(list_folder(folder, ExitCode::kData).size(), traced ? 3U : 2U);
  const auto read = [&](const std::string& name) {
    return read_file(folder + "/" + name, ExitCode::kData);
  };
  const Json json = parse_json(read("kernels.json"), folder, ExitCode::kData);
  const auto step = json.at("first_step").get<int64_t>();
  EXPECT_THAT(read("kernels.txt"), HasSubstr(fmt::format("Profile of step {} ", step)));
  if (traced) {
    EXPECT_THAT(read("trace.json"), HasSubstr(fmt::format("\"step {}\"", step)));
  }
  return {step, traced};
}

constexpr int64_t kFormer = 3, kNew = 5;
constexpr Held kNothing, kFormerOne{kFormer, true}, kNewOne{kNew, true}, kNewTables{kNew, false};

// What is left when one call of the file system goes wrong.
struct Left {
  Held latest;      // in profile/
  Held superseded;  // in profile.superseded/
  size_t warnings = 0;
};

// The last calls are four that make the trace durable, the two renames and a sync; those before
// write the tables.
Left expected_after(int call, int calls, Fault fault) {
  const int sync = calls, rename = calls - 1, first_of_trace = calls - 6;
  const bool lasts = fault == Fault::kLasting || fault == Fault::kPowerCut;
  if (call > calls) return {kNewOne, kFormerOne, 0};
  if (call == sync) return {kNewOne, kFormerOne, 1};
  if (call == rename && lasts) return {kNothing, kFormerOne, 2};  // cannot be renamed back either
  if (call >= first_of_trace && call < first_of_trace + 4 && !lasts) {
    return {kNewTables, kFormerOne, 1};
  }
  return {kFormerOne, kNothing, 1};
}

TEST(ProfilerTest, LosesNoProfileAndMixesNoTwoWhateverCallFails) {
  FaultFileSystem counter;
  {
    const TemporaryFolder folder;
    profile_step(FileSystem::posix(), folder.path(), kFormer);
    profile_step(counter, folder.path(), kNew);
  }
  const int calls = counter.calls();
  for (const Fault fault : {Fault::kOnce, Fault::kLasting, Fault::kShortWrite, Fault::kPowerCut}) {
    for (int call = 1; call <= calls + 1; ++call) {
      SCOPED_TRACE(fmt::format("fault {} in call {} of {}", static_cast<int>(fault), call, calls));
      const TemporaryFolder folder;
      const std::string profile = folder.path() + "/profile";
      profile_step(FileSystem::posix(), folder.path(), kFormer);
      FaultFileSystem files;
      files.inject(call, fault, ENOSPC);
      const Listener listener = profile_step(files, folder.path(), kNew);
      EXPECT_EQ(files.triggered(), call <= calls);

      const Left expected = expected_after(call, calls, fault);
      EXPECT_EQ(held(profile), expected.latest);
      EXPECT_EQ(held(profile + ".superseded"), expected.superseded);
      EXPECT_EQ(listener.warnings.size(), expected.warnings);
      EXPECT_EQ(listener.told.size(), expected.latest.step == kNew ? 1U : 0U);
      const bool lasts = fault == Fault::kLasting || fault == Fault::kPowerCut;
      EXPECT_TRUE(lasts || !folder_exists(profile + ".tmp"));
      if (expected.latest.step == 0) {
        EXPECT_THAT(listener.warnings.front(),
                    HasSubstr("The profile before is kept as " + profile + ".superseded."));
      }

      if (fault == Fault::kPowerCut) {
        const auto names =
            call % 2 == 0 ? FaultFileSystem::Names::kLost : FaultFileSystem::Names::kKept;
        files.lose_unsynced(names);
        const Held latest = held(profile), superseded = held(profile + ".superseded");
        EXPECT_TRUE(latest == kFormerOne || superseded == kFormerOne);
      }

      // The next one finds nothing in its way.
      EXPECT_THAT(profile_step(FileSystem::posix(), folder.path(), 7).warnings, IsEmpty());
      EXPECT_EQ(held(profile), (Held{7, true}));
      EXPECT_FALSE(folder_exists(profile + ".tmp"));
    }
  }
}

// A limit on the size of files stands for the full disk: the library's writes really fail, in the
// middle.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : former_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &former_);
    const rlimit limit = {bytes, former_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &former_);
    std::signal(SIGXFSZ, former_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit former_{};
  void (*former_handler_)(int);
};

TEST(ProfilerTest, KeepsTheTablesWhereOnlyTheTraceFindsNoRoom) {
  constexpr int kOperators = 2000;
  constexpr uint64_t kRoom = 64 << 10;
  const TemporaryFolder folder;
  const std::string profile = folder.path() + "/profile";
  profile_step(FileSystem::posix(), folder.path(), kFormer, kOperators);
  ASSERT_GT(file_size(profile + "/trace.json", ExitCode::kData), 2 * kRoom);
  ASSERT_LT(file_size(profile + "/kernels.json", ExitCode::kData), kRoom / 2);
  Listener listener;
  {
    const FileSizeLimit limit(kRoom);
    listener = profile_step(FileSystem::posix(), folder.path(), kNew, kOperators);
  }
  EXPECT_THAT(listener.warnings, ElementsAre("The profile has no trace.json. Is the disk full?"));
  EXPECT_THAT(listener.told,
              ElementsAre(AllOf(HasSubstr("/kernels.txt."), HasSubstr("The one before is kept as "),
                                Not(HasSubstr("trace.json")))));
  EXPECT_EQ(held(profile), kNewTables);
  EXPECT_EQ(held(profile + ".superseded"), kFormerOne);
}

TEST(ProfilerTest, TellsThatItsStepsAreBehindTheRunOnce) {
  const TemporaryFolder folder;
  Listener listener;
  Profiler profiler(FileSystem::posix(), folder.path() + "/profile", {4, 1}, c10::kCPU, "device",
                    listener);
  for (const int64_t step : {5, 6, 7}) profiler.before_step(step);
  profiler.finish();
  EXPECT_THAT(listener.told, ElementsAre("log.profile: the run goes on with step 5, behind step 4; "
                                         "nothing is profiled."));
  EXPECT_THAT(listener.warnings, IsEmpty());
  EXPECT_FALSE(folder_exists(folder.path() + "/profile"));
}

}  // namespace
}  // namespace swiattn
