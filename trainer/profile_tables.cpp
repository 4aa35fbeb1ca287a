#include "trainer/profile_tables.h"

#include <fmt/format.h>

#include <iterator>

#include "trainer/kernel_name.h"

namespace swiattn {
namespace {

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::string kernel_table(const ProfileSummary& summary) {
  std::string text =
      fmt::format("{:<{}}{:>14}{:>13}{:>13}{:>9}\n",
                  summary.on_gpu ? "GPU kernel" : "operator, without those it calls",
                  kLongestKernelName, "calls a step", "us a call", "ms a step", "share");
  double calls = 0.0, milliseconds = 0.0;
  const auto row = [&](const std::string& name, double count, const std::string& each, double time,
                       double share) {
    fmt::format_to(std::back_inserter(text), "{:<{}}{:>14.1f}{:>13}{:>13.3f}{:>9}\n", name,
                   kLongestKernelName, count, each, time, percent(share));
  };
  for (const auto& kernel : summary.kernels) {
    row(kernel.name, kernel.calls, fmt::format("{:.2f}", kernel.mean_microseconds),
        kernel.milliseconds, kernel.share);
    calls += kernel.calls;
    milliseconds += kernel.milliseconds;
  }
  row("all", calls, "", milliseconds, summary.kernels.empty() ? 0.0 : 1.0);
  return text;
}

std::string phase_table(const ProfileSummary& summary) {
  std::string text =
      fmt::format("{:<15}{:>13}{:>15}{:>9}\n", "phase", "GPU ms", "host ms", "share");
  const auto row = [&](const std::string& name, const std::string& gpu, const std::string& host,
                       double share) {
    fmt::format_to(std::back_inserter(text), "{:<15}{:>13}{:>15}{:>9}\n", name, gpu, host,
                   percent(share));
  };
  const auto number = [](double milliseconds) { return fmt::format("{:.3f}", milliseconds); };
  const auto on_gpu = [&](double milliseconds) {
    return summary.on_gpu ? number(milliseconds) : std::string("-");
  };
  for (const auto& phase : summary.phases) {
    row(phase.name, on_gpu(phase.gpu_milliseconds), number(phase.host_milliseconds), phase.share);
  }
  if (summary.on_gpu) {
    row("GPU idle", number(summary.idle_share * summary.step_milliseconds), "-",
        summary.idle_share);
  }
  row("step", on_gpu(summary.step_milliseconds), number(summary.step_milliseconds), 1.0);
  return text;
}

}  // namespace

std::string profiled_steps(int64_t first, int64_t count) {
  if (count == 1) return fmt::format("step {}", first);
  return fmt::format("steps {} to {}", first, first + count - 1);
}

std::string profile_text(const ProfileSummary& summary, const ProfileTitle& title) {
  return fmt::format("Profile of {} on {}, {:.3f} ms a step.\n\n{}\n{}",
                     profiled_steps(title.first_step, summary.steps), title.device,
                     summary.step_milliseconds, kernel_table(summary), phase_table(summary));
}

nlohmann::ordered_json profile_json(const ProfileSummary& summary, const ProfileTitle& title) {
  nlohmann::ordered_json json = {{"schema", 1},
                                 {"first_step", title.first_step},
                                 {"steps", summary.steps},
                                 {"device", title.device},
                                 {"on_gpu", summary.on_gpu},
                                 {"step_milliseconds", summary.step_milliseconds},
                                 {"idle_share", summary.idle_share},
                                 {"phases", nlohmann::ordered_json::array()},
                                 {"kernels", nlohmann::ordered_json::array()}};
  for (const auto& phase : summary.phases) {
    json["phases"].push_back({{"name", phase.name},
                              {"gpu_milliseconds", phase.gpu_milliseconds},
                              {"host_milliseconds", phase.host_milliseconds},
                              {"share", phase.share}});
  }
  for (const auto& kernel : summary.kernels) {
    json["kernels"].push_back({{"name", kernel.name},
                               {"full_name", kernel.full_name},
                               {"calls", kernel.calls},
                               {"mean_microseconds", kernel.mean_microseconds},
                               {"milliseconds", kernel.milliseconds},
                               {"share", kernel.share}});
  }
  return json;
}

}  // namespace swiattn
