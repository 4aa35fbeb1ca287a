#include "trainer/environment.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/host.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream stream(path);
  std::string line;
  std::getline(stream, line);
  return line;
}

// What follows "KEY : " or "KEY=" in a file such as /proc/cpuinfo, without quotes.
std::string find_value(const fs::path& path, const std::string& key) {
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) {
    if (!line.starts_with(key)) continue;
    const size_t at = line.find_first_not_of(" \t:=\"", key.size());
    if (at == std::string::npos) return "";
    return line.substr(at, line.find_last_not_of(" \t\"") + 1 - at);
  }
  return "";
}

std::string kernel() {
  utsname names{};
  if (uname(&names) != 0) return "";
  return fmt::format("{} {} {}", names.sysname, names.release, names.machine);
}

double memory_gib() {
  const double pages = static_cast<double>(sysconf(_SC_PHYS_PAGES));
  return pages * static_cast<double>(sysconf(_SC_PAGESIZE)) / (1ULL << 30);
}

std::string program_folder() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path();
}

// The commit of a reference such as refs/heads/main, loose or packed.
std::string resolve_reference(const fs::path& git, const std::string& reference) {
  if (std::string commit = first_line(git / reference); !commit.empty()) return commit;
  std::ifstream packed(git / "packed-refs");
  for (std::string line; std::getline(packed, line);) {
    if (line.ends_with(" " + reference)) return line.substr(0, line.find(' '));
  }
  return "";
}

}  // namespace

std::string find_git_commit(const std::string& folder) {
  for (fs::path path = folder; !path.empty(); path = path.parent_path()) {
    std::string head = first_line(path / ".git" / "HEAD");
    if (head.starts_with("ref: ")) return resolve_reference(path / ".git", head.substr(5));
    if (!head.empty()) return head;
    if (path == path.parent_path()) break;
  }
  return "";
}

nlohmann::ordered_json describe_environment(const ProgramFacts& facts) {
  const std::string commit = find_git_commit(program_folder());
  std::error_code ignored;
  return {
      {"schema", 1},
      {"started", utc_now()},
      {"command_line", facts.command_line},
      {"folder", fs::current_path(ignored).string()},
      {"versions", facts.versions},
      {"git_commit", commit.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(commit)},
      {"host", host_name()},
      {"process", getpid()},
      {"ranks", facts.ranks},
      {"gpus", facts.gpus},
      {"processor", find_value("/proc/cpuinfo", "model name")},
      {"cores", std::thread::hardware_concurrency()},
      {"memory_gib", memory_gib()},
      {"system", find_value("/etc/os-release", "PRETTY_NAME")},
      {"kernel", kernel()}};
}

}  // namespace swiattn
