#include "trainer/profiler.h"

#include <kineto/ActivityType.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "base/path_aside.h"
#include "parallel/device.h"
#include "parallel/phase.h"
#include "trainer/profile_summary.h"
#include "trainer/profile_tables.h"

namespace swiattn {
namespace {

namespace kineto = torch::autograd::profiler;
using Activities = std::set<kineto::ActivityType>;

kineto::ProfilerConfig recording() { return kineto::ProfilerConfig(kineto::ProfilerState::KINETO); }

Activities activities_on(c10::Device device) {
  Activities activities = {kineto::ActivityType::CPU};
  if (device.is_cuda()) activities.insert(kineto::ActivityType::CUDA);
  return activities;
}

std::vector<std::string> phase_names() { return {kPhaseNames.begin(), kPhaseNames.end()}; }

// What an event of the recording is to the summary; nothing for the rest (layers, memory, …).
std::optional<ProfileEvent::Kind> kind_of(const kineto::KinetoEvent& event) {
  using Kind = ProfileEvent::Kind;
  using Type = libkineto::ActivityType;
  switch (static_cast<Type>(event.activityType())) {
    case Type::CPU_OP:
      return Kind::kOperator;
    case Type::USER_ANNOTATION: {
      const std::string name = event.name();
      if (name.starts_with(kStepRange)) return Kind::kStep;
      const bool phase =
          std::find(kPhaseNames.begin(), kPhaseNames.end(), name) != kPhaseNames.end();
      return phase ? std::optional(Kind::kPhase) : std::nullopt;
    }
    case Type::CUDA_RUNTIME:
    case Type::CUDA_DRIVER:
      return Kind::kLaunch;
    case Type::GPU_MEMCPY:
    case Type::GPU_MEMSET:
    case Type::CONCURRENT_KERNEL:
      return Kind::kGpuWork;
    default:
      return std::nullopt;
  }
}

// In the profiler's words every event has a correlation id: of an operator its own, of a launch and
// its work that of the launch. Both count from small numbers, apart from each other.
std::vector<ProfileEvent> events_of(const kineto::ProfilerResult& result) {
  using Kind = ProfileEvent::Kind;
  std::vector<ProfileEvent> events;
  for (const kineto::KinetoEvent& event : result.events()) {
    const auto kind = kind_of(event);
    if (!kind) continue;
    ProfileEvent& made = events.emplace_back();
    made.kind = *kind;
    made.name = event.name();
    made.start = static_cast<int64_t>(event.startNs());
    made.end = static_cast<int64_t>(event.endNs());
    if (kind == Kind::kOperator) {
      made.thread = event.startThreadId();
      made.call = event.correlationId();
    } else if (kind == Kind::kLaunch || kind == Kind::kGpuWork) {
      made.launch = event.correlationId();
      made.call = event.linkedCorrelationId();
    }
  }
  return events;
}

// Writes FOLDER/trace.json, as durable as what write_file_atomically() writes, and returns why it
// is not there, "" where it is. The library writes next to it, where nothing may be, renames, and
// reports a failure to nobody: a file that is there afterwards is whole.
std::string save_trace(FileSystem& files, kineto::ProfilerResult& result,
                       const std::string& folder) {
  const std::string path = folder + "/trace.json";
  result.save(path);
  if (!file_exists(path)) {
    if (file_exists(path + ".tmp")) files.remove_file(path + ".tmp");
    return "Is the disk full?";
  }
  try {
    const auto file = files.open_for_append(path);
    file->sync();
    file->close();
    files.sync_folder(folder);
    return "";
  } catch (const FileError& error) {
    files.remove_file(path);
    return error.what();
  }
}

}  // namespace

Profiler::Profiler(FileSystem& files, std::string folder, const ProfileRange& steps,
                   c10::Device device, std::string device_name, RunObserver& observer)
    : files_(files),
      folder_(std::move(folder)),
      unfinished_(folder_ + ".tmp"),
      steps_(steps),
      device_(device),
      device_name_(std::move(device_name)),
      observer_(observer) {
  // It would print an error for a GPU that is missing on purpose.
  if (device_.is_cpu()) setenv("KINETO_LOG_LEVEL", "5", 0);
}

Profiler::~Profiler() {
  try {
    if (state_ == State::kPrepared) start();  // what is prepared cannot be ended otherwise
    if (state_ == State::kRecording) kineto::disableProfiler();
  } catch (const std::exception&) {  // nobody is left who could be told
    state_ = State::kDone;
  }
}

void Profiler::prepare() {
  kineto::prepareProfiler(recording(), activities_on(device_));
  state_ = State::kPrepared;
}

void Profiler::start() {
  synchronize(device_);
  kineto::enableProfiler(recording(), activities_on(device_),
                         {at::RecordScope::FUNCTION, at::RecordScope::USER_SCOPE});
  state_ = State::kRecording;
}

void Profiler::before_step(int64_t step) {
  try {
    if (state_ == State::kOff && step > steps_.last()) {
      state_ = State::kDone;
      observer_.tell(
          fmt::format("log.profile: the run goes on with step {}, behind {}; nothing is profiled.",
                      step, profiled_steps(steps_.start, steps_.steps)));
    }
    if (state_ == State::kOff && (step + 1 == steps_.start || steps_.contains(step))) prepare();
    if (state_ != State::kPrepared || !steps_.contains(step)) return;
    start();
    first_step_ = step;
  } catch (const std::exception& error) {
    state_ = State::kDone;
    observer_.warn(fmt::format("Nothing is profiled. {}", error.what()));
  }
}

void Profiler::finish() {
  if (state_ != State::kRecording) return;
  state_ = State::kDone;
  try {
    write();
  } catch (const std::exception& error) {
    discard();
    observer_.warn(fmt::format("The profile could not be written. {}", error.what()));
  }
}

void Profiler::write() {
  synchronize(device_);
  const std::unique_ptr<kineto::ProfilerResult> result = kineto::disableProfiler();
  const ProfileSummary summary =
      summarize_profile(events_of(*result), phase_names(), device_.is_cuda());
  const ProfileTitle title{first_step_, device_name_};
  files_.remove_folder_tree(unfinished_);
  files_.make_folders(unfinished_);
  write_file_atomically(files_, unfinished_ + "/kernels.txt", profile_text(summary, title));
  write_file_atomically(files_, unfinished_ + "/kernels.json",
                        dump_json(profile_json(summary, title), 2) + "\n");
  const std::string untraced = save_trace(files_, *result, unfinished_);
  const std::string before = publish();
  if (!summary.complete) {
    observer_.warn(
        "The profiler has lost kernels: profile fewer steps at a time (log.profile), and see that "
        "no other tool traces this GPU.");
  }
  if (!untraced.empty()) observer_.warn("The profile has no trace.json. " + untraced);
  observer_.tell(fmt::format("Profile of {}: {}/kernels.txt{}.{}",
                             profiled_steps(first_step_, summary.steps), folder_,
                             untraced.empty() ? ", and trace.json for ui.perfetto.dev" : "",
                             before.empty() ? "" : " The one before is kept as " + before + "."));
}

std::string Profiler::publish() {
  std::string before;
  if (file_exists(folder_) || folder_exists(folder_)) {
    before = path_aside(folder_, "superseded");
    files_.rename(folder_, before);
  }
  try {
    files_.rename(unfinished_, folder_);
  } catch (const FileError&) {
    if (!before.empty()) put_back(before);
    throw;
  }
  try {
    files_.sync_folder(std::filesystem::path(folder_).parent_path());
  } catch (const FileError& error) {
    observer_.warn(
        fmt::format("A power cut may undo the renaming of the profile. {}", error.what()));
  }
  return before;
}

void Profiler::put_back(const std::string& before) {
  try {
    files_.rename(before, folder_);
  } catch (const FileError& error) {
    observer_.warn(fmt::format("The profile before is kept as {}. {}", before, error.what()));
  }
}

void Profiler::discard() {
  try {
    files_.remove_folder_tree(unfinished_);
  } catch (const FileError&) {  // the next profile begins with that
    return;
  }
}

}  // namespace swiattn
