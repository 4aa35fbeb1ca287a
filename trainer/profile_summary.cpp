#include "trainer/profile_summary.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "trainer/kernel_name.h"

namespace swiattn {
namespace {

using Kind = ProfileEvent::Kind;
using Events = std::vector<const ProfileEvent*>;

constexpr double kNanosecondsPerMillisecond = 1e6;

// Those of a kind, by their begin; of several that begin at once the outer one first.
Events in_order(const std::vector<ProfileEvent>& events, Kind kind) {
  Events chosen;
  for (const ProfileEvent& event : events) {
    if (event.kind == kind) chosen.push_back(&event);
  }
  std::stable_sort(chosen.begin(), chosen.end(), [](const auto* a, const auto* b) {
    return a->start != b->start ? a->start < b->start : a->end > b->end;
  });
  return chosen;
}

// The one of `ordered`, which do not overlap, in which `time` lies; null where there is none.
const ProfileEvent* around(const Events& ordered, int64_t time) {
  const auto after =
      std::upper_bound(ordered.begin(), ordered.end(), time,
                       [](int64_t moment, const auto* event) { return moment < event->start; });
  if (after == ordered.begin()) return nullptr;
  const ProfileEvent* event = *std::prev(after);
  return time < event->end ? event : nullptr;
}

int64_t duration(const ProfileEvent& event) { return event.end - event.start; }

// Nanoseconds and calls by name.
struct Tally {
  int64_t calls = 0;
  int64_t time = 0;
};

// When work of the GPU was handed to it, on the host.
class Launches {
 public:
  explicit Launches(const std::vector<ProfileEvent>& events) {
    for (const ProfileEvent& event : events) {
      // Of a call that shows twice, in the runtime and in the driver below it, any will do.
      if (event.kind == Kind::kLaunch && event.launch != 0) by_launch_[event.launch] = event.start;
      if (event.kind == Kind::kOperator && event.call != 0) by_call_[event.call] = event.start;
    }
  }

  // To be asked in the order in which the work began: work of which nothing is known came from
  // where the work before it came from.
  int64_t time_of(const ProfileEvent& work) {
    if (const auto launch = by_launch_.find(work.launch); launch != by_launch_.end()) {
      latest_ = launch->second;
    } else if (const auto call = by_call_.find(work.call); call != by_call_.end()) {
      latest_ = call->second;
    } else if (!latest_) {
      latest_ = work.start;
    }
    return *latest_;
  }

 private:
  std::unordered_map<uint64_t, int64_t> by_launch_;
  std::unordered_map<uint64_t, int64_t> by_call_;
  std::optional<int64_t> latest_;
};

class Summarizer {
 public:
  Summarizer(const std::vector<ProfileEvent>& events, const std::vector<std::string>& phases)
      : events_(events),
        steps_(in_order(events, Kind::kStep)),
        phases_(in_order(events, Kind::kPhase)) {
    for (const std::string& name : phases) summary_.phases.push_back({name});
    summary_.phases.push_back({"other"});
    summary_.steps = static_cast<int64_t>(steps_.size());
  }

  ProfileSummary summarize(bool on_gpu) {
    if (steps_.empty()) return summary_;
    summary_.on_gpu = on_gpu;
    measure_host();
    if (on_gpu) {
      measure_gpu();
    } else {
      measure_operators();
    }
    list_kernels();
    return summary_;
  }

 private:
  double mean_milliseconds(int64_t nanoseconds) const {
    return static_cast<double>(nanoseconds) / kNanosecondsPerMillisecond /
           static_cast<double>(summary_.steps);
  }
  bool in_a_step(int64_t time) const { return around(steps_, time) != nullptr; }

  size_t phase_at(int64_t time) const {
    const ProfileEvent* phase = around(phases_, time);
    size_t index = 0;
    while (index + 1 < summary_.phases.size() &&
           (phase == nullptr || summary_.phases[index].name != phase->name)) {
      ++index;
    }
    return index;  // the last is "other"
  }

  void measure_host() {
    int64_t whole = 0, other = 0;
    for (const ProfileEvent* step : steps_) whole += duration(*step);
    other = whole;
    for (const ProfileEvent* phase : phases_) {
      if (!in_a_step(phase->start)) continue;
      summary_.phases[phase_at(phase->start)].host_milliseconds +=
          mean_milliseconds(duration(*phase));
      other -= duration(*phase);
    }
    summary_.phases.back().host_milliseconds = mean_milliseconds(std::max<int64_t>(other, 0));
    summary_.step_milliseconds = mean_milliseconds(whole);
    for (auto& phase : summary_.phases) {
      phase.share = phase.host_milliseconds / summary_.step_milliseconds;
    }
  }

  void measure_gpu() {
    Launches launches(events_);
    std::set<const ProfileEvent*> worked;
    int64_t covered = 0;  // the GPU's time up to which a phase has been found
    double busy = 0.0;
    for (const ProfileEvent* work : in_order(events_, Kind::kGpuWork)) {
      const int64_t launched = launches.time_of(*work);
      const ProfileEvent* step = around(steps_, launched);
      if (step == nullptr) continue;
      worked.insert(step);
      Tally& tally = kernels_[work->name];
      ++tally.calls;
      tally.time += duration(*work);
      const double alone =
          mean_milliseconds(std::max<int64_t>(work->end - std::max(work->start, covered), 0));
      summary_.phases[phase_at(launched)].gpu_milliseconds += alone;
      busy += alone;
      covered = std::max(covered, work->end);
    }
    // Work may end a little after the step that launched it.
    const double whole = std::max(busy, summary_.step_milliseconds);
    for (auto& phase : summary_.phases) phase.share = phase.gpu_milliseconds / whole;
    summary_.idle_share = (whole - busy) / whole;
    summary_.complete = worked.size() == steps_.size();
  }

  // An operator's own time is what the operators that it calls leave of it.
  void measure_operators() {
    std::map<uint64_t, Events> threads;
    for (const ProfileEvent* call : in_order(events_, Kind::kOperator)) {
      if (in_a_step(call->start)) threads[call->thread].push_back(call);
    }
    for (const auto& [thread, calls] : threads) {
      Events open;
      for (const ProfileEvent* call : calls) {
        while (!open.empty() && open.back()->end <= call->start) open.pop_back();
        if (!open.empty()) kernels_[open.back()->name].time -= duration(*call);
        Tally& tally = kernels_[call->name];
        ++tally.calls;
        tally.time += duration(*call);
        open.push_back(call);
      }
    }
  }

  void list_kernels() {
    int64_t whole = 0;
    std::map<std::string, int> same_name;
    for (const auto& [name, tally] : kernels_) {
      whole += tally.time;
      ++same_name[short_kernel_name(name)];
    }
    // Names of operators are short.
    const auto name_for_people = [&](const std::string& name) {
      if (!summary_.on_gpu) return name;
      const std::string brief = short_kernel_name(name);
      return same_name[brief] == 1 ? brief : short_kernel_signature(name);
    };
    for (const auto& [name, tally] : kernels_) {
      summary_.kernels.push_back(
          {.name = name_for_people(name),
           .full_name = name,
           .calls = static_cast<double>(tally.calls) / static_cast<double>(summary_.steps),
           .mean_microseconds =
               static_cast<double>(tally.time) * 1e-3 / static_cast<double>(tally.calls),
           .milliseconds = mean_milliseconds(tally.time),
           .share =
               whole > 0 ? static_cast<double>(tally.time) / static_cast<double>(whole) : 0.0});
    }
    std::stable_sort(summary_.kernels.begin(), summary_.kernels.end(),
                     [](const auto& a, const auto& b) { return a.milliseconds > b.milliseconds; });
  }

  const std::vector<ProfileEvent>& events_;
  Events steps_;
  Events phases_;
  std::map<std::string, Tally> kernels_;
  ProfileSummary summary_;
};

}  // namespace

ProfileSummary summarize_profile(const std::vector<ProfileEvent>& events,
                                 const std::vector<std::string>& phases, bool on_gpu) {
  return Summarizer(events, phases).summarize(on_gpu);
}

}  // namespace swiattn
