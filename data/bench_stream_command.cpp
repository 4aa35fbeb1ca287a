#include "data/bench_stream_command.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/json.h"
#include "data/batch_stream.h"
#include "data/prefetcher.h"

namespace swiattn {
namespace {

struct Options {
  std::string path;
  std::optional<int32_t> eos_id;
  int64_t sequence_length = 4096;
  double seconds = 3;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void bench(const Options& options) {
  const auto opened = std::chrono::steady_clock::now();
  std::vector<WeightedSource> sources;
  sources.push_back({open_token_source(options.path, {.eos_id = options.eos_id})});
  BatchStream stream({.sequence_length = options.sequence_length,
                      .global_batch = 1,
                      .vocab_size = std::numeric_limits<int32_t>::max()},
                     std::move(sources));
  const double open_seconds = seconds_since(opened);

  const int64_t samples = stream.samples(0);
  Prefetcher prefetcher(std::move(stream), 1);
  const auto started = std::chrono::steady_clock::now();
  int64_t tokens = 0;
  while (seconds_since(started) < options.seconds) tokens += prefetcher.next().tokens();
  const double seconds = seconds_since(started);

  const nlohmann::ordered_json json = {
      {"sequence_length", options.sequence_length},
      {"samples_in_a_pass", samples},
      {"open_seconds", open_seconds},
      {"seconds", seconds},
      {"tokens", tokens},
      {"tokens_per_second", static_cast<double>(tokens) / seconds}};
  fmt::print("{}\n", dump_json(json));
}

}  // namespace

void add_bench_stream_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("bench-stream", "Measure the batch stream")->group("");
  command->add_option("PREFIX", options->path, "Shard to read, shuffled")->required();
  command->add_option("--sequence-length", options->sequence_length, "Tokens of a sample")
      ->check(CLI::PositiveNumber);
  command->add_option("--seconds", options->seconds, "How long to read")
      ->check(CLI::PositiveNumber);
  command->add_option("--eos-id", options->eos_id,
                      "Token that ends a document of a shard without index");
  command->callback([options] { bench(*options); });
}

}  // namespace swiattn
