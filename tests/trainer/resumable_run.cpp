#include "resumable_run.h"

#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "../model/small_models.h"
#include "base/file_system.h"
#include "base/hash.h"

namespace swiattn {

ResumableRun::ResumableRun(int ranks) : ranks_(ranks) {
  const ModelConfig config = small_config(Architecture::kLlama);
  write_model_folder(root() + "/base", config, random_weights(config, false, 5));
  write_flat_shard(root() + "/tokens.bin", random_documents(3000, config.vocab_size, 6));
  std::ofstream(root() + "/run.yaml") << fmt::format(
      "run: {{folder: {0}/run}}\n"
      "model: {{init_from: {0}/base, compute: float32}}\n"
      "attention: {{window: 8}}\n"
      "regularizer: {{gamma: 0.02}}\n"
      "data: {{sequence_length: 32, sources: [{{path: {0}/tokens.bin, eos_id: 60}}],\n"
      "       validation: [{{name: held, path: {0}/tokens.bin, eos_id: 60}}]}}\n"
      "train: {{steps: {1}, global_batch: 4}}\n"
      "optimizer: {{learning_rate: 1.0e-3}}\n"
      "schedule: {{warmup: 2}}\n"
      "validation: {{every: 4, batches: 2}}\n"
      "checkpoint: {{every: 3, keep_last: 2}}\n",
      root(), kSteps);
}

std::string ResumableRun::command(const std::string& name, const std::string& flags) const {
  const std::string launcher =
      ranks_ == 1 ? "" : fmt::format("mpirun --allow-run-as-root --oversubscribe -np {} ", ranks_);
  return fmt::format("{}{}/swiattn-train --device cpu --config {}/run.yaml --run.folder={} {}",
                     launcher, SWIATTN_PROGRAMS, root(), folder(name), flags);
}

ProgramResult ResumableRun::train(const std::string& name, const std::string& flags) const {
  return run_command(command(name, flags));
}

pid_t ResumableRun::start(const std::string& name, const std::string& flags) const {
  const std::string line = "OMP_NUM_THREADS=1 exec " + command(name, flags) + " >/dev/null 2>&1";
  const pid_t child = fork();
  if (child == 0) {
    setpgid(0, 0);
    execl("/bin/sh", "sh", "-c", line.c_str(), nullptr);
    _exit(127);
  }
  return child;
}

// SIGUSR1 goes through mpirun to every rank.
int ResumableRun::stop_when(const std::function<bool()>& seen, const std::string& name,
                            const std::string& flags) const {
  const pid_t child = start(name, flags);
  int status = 0;
  bool ended = false;
  for (; !ended && !seen(); ended = waitpid(child, &status, WNOHANG) == child) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (!ended) {
    kill(child, SIGUSR1);
    waitpid(child, &status, 0);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string ResumableRun::outcome(const std::string& name) const {
  std::string text;
  for (const Json& line : read_metrics(folder(name), "train")) {
    text += fmt::format("{} {} {} {}\n", line.at("step").dump(), line.at("loss").dump(),
                        line.at("grad_norm").dump(), line.at("full_ratio_by_layer").dump());
  }
  for (const Json& line : read_metrics(folder(name), "validation")) {
    text += fmt::format("{} {}\n", line.at("step").dump(), line.at("nll").dump());
  }
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    const std::string path =
        fmt::format("{}/checkpoints/step-{:08}/{}", folder(name), kSteps, file);
    text += format_hash(hash_text(read_file(path, ExitCode::kCheckpoint))) + "\n";
  }
  const std::string exported = folder(name) + "/hybrid/model.safetensors";
  return text + format_hash(hash_text(read_file(exported, ExitCode::kCheckpoint)));
}

// The brackets keep the pattern from matching the shell that carries it.
void ResumableRun::kill_ranks() const {
  const std::string pattern = fmt::format("'[s]wiattn-train --device.*{}'", root());
  run_command("pkill -KILL -f " + pattern);
  while (run_command("pgrep -f " + pattern).code == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace swiattn
