// What a profile leaves when the disk fails: every call of the file system in turn.
#include "trainer/profiler.h"

#include <ATen/ops/ones.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "../base/fault_file_system.h"
#include "../base/temporary_folder.h"
#include "base/json.h"
#include "parallel/phase.h"

namespace swiattn {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Fault = FaultFileSystem::Fault;

class Listener final : public RunObserver {
 public:
  void tell(const std::string& sentence) override { told.push_back(sentence); }
  void warn(const std::string& sentence) override { warnings.push_back(sentence); }

  std::vector<std::string> told, warnings;
};

// Profiles one step into ROOT/profile.
Listener profile_step(FileSystem& files, const std::string& root, int64_t step) {
  Listener listener;
  Profiler profiler(files, root + "/profile", {step, 1}, c10::kCPU, "device", listener);
  profiler.before_step(step);
  {
    const NamedRange range(kStepRange + std::to_string(step));
    at::ones({4}).add_(1.0);
  }
  profiler.finish();
  return listener;
}

// Of whose step this folder holds every file; 0 where there is none.
int64_t profiled_step(const std::string& folder) {
  if (!folder_exists(folder)) return 0;
  EXPECT_THAT(list_folder(folder, ExitCode::kData),
              ElementsAre("kernels.json", "kernels.txt", "trace.json"));
  const auto read = [&](const std::string& name) {
    return read_file(folder + "/" + name, ExitCode::kData);
  };
  const Json json = parse_json(read("kernels.json"), folder, ExitCode::kData);
  const auto step = json.at("first_step").get<int64_t>();
  EXPECT_THAT(read("kernels.txt"), HasSubstr(fmt::format("Profile of step {} ", step)));
  EXPECT_THAT(read("trace.json"), HasSubstr(fmt::format("\"step {}\"", step)));
  return step;
}

TEST(ProfilerTest, LosesNoProfileAndMixesNoTwoWhateverCallFails) {
  constexpr int64_t kFormer = 3, kNew = 5;
  for (const Fault fault : {Fault::kOnce, Fault::kLasting, Fault::kShortWrite}) {
    bool triggered = true;
    for (int call = 1; triggered; ++call) {
      SCOPED_TRACE(fmt::format("fault {} in call {}", static_cast<int>(fault), call));
      const TemporaryFolder folder;
      profile_step(FileSystem::posix(), folder.path(), kFormer);
      FaultFileSystem files;
      files.inject(call, fault, ENOSPC);
      const Listener listener = profile_step(files, folder.path(), kNew);
      triggered = files.triggered();

      const int64_t latest = profiled_step(folder.path() + "/profile");
      const int64_t before = profiled_step(folder.path() + "/profile.superseded");
      EXPECT_TRUE(latest == kFormer || before == kFormer) << latest << " " << before;
      EXPECT_EQ(listener.warnings.size(), triggered ? 1U : 0U);
      EXPECT_EQ(listener.told.size(), triggered ? 0U : 1U);
      const bool left = folder_exists(folder.path() + "/profile.tmp");
      EXPECT_TRUE(fault == Fault::kLasting || !left);
      EXPECT_TRUE(triggered || latest == kNew) << latest;
      ASSERT_LT(call, 100);

      // The next one finds nothing in its way.
      EXPECT_THAT(profile_step(FileSystem::posix(), folder.path(), 7).warnings, IsEmpty());
      EXPECT_EQ(profiled_step(folder.path() + "/profile"), 7);
      EXPECT_FALSE(folder_exists(folder.path() + "/profile.tmp"));
    }
  }
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
