// The configuration of a run: every key of the YAML file, typed, with its default.
//
// Sections and keys have the names of the file. trainer/config_fields.cpp maps them to these
// members and says what each may hold; docs/config-reference.md is generated from there.
#pragma once

#include <array>
#include <csignal>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "model/model_config.h"

namespace swiattn {

// A length of training, written as steps (500), as tokens (2B tokens) or as a share of the run
// (10%).
struct Span {
  enum class Unit { kSteps, kTokens, kPercent };
  Unit unit = Unit::kSteps;
  double amount = 0;  // whole in steps and tokens

  bool operator==(const Span&) const = default;
};

struct RunSection {
  std::string folder;
  int64_t seed = 1234;

  bool operator==(const RunSection&) const = default;
};

struct ModelSection {
  enum class Compute { kFloat32, kBfloat16 };
  std::optional<std::string> init_from;
  std::optional<std::string> architecture;
  Compute compute = Compute::kBfloat16;
  std::optional<RopeScaling> rope_scaling;

  bool operator==(const ModelSection&) const = default;
};

// Both branches for a sample of the tokens instead of all.
struct FarSamplingKeys {
  bool enabled = false;
  double minimum = 0.02;
  double scale = 0.5;

  bool operator==(const FarSamplingKeys&) const = default;
};

struct AttentionSection {
  enum class Mode { kFull, kWindow, kStatic, kSwitch };
  enum class Backend { kAuto, kReference, kLibrary, kFused };
  Mode mode = Mode::kSwitch;
  int64_t window = 1024;             // keys, the query's own included
  std::vector<int64_t> full_layers;  // counted from 1
  Backend backend = Backend::kAuto;
  bool mask_documents = true;
  FarSamplingKeys far_sampling;

  bool operator==(const AttentionSection&) const = default;
};

struct RouterSection {
  enum class Gate { kLearned, kRandom, kTopK };
  Gate gate = Gate::kLearned;
  double init_std = 0.02;
  double learning_rate_multiplier = 1.0;
  std::optional<double> ratio;

  bool operator==(const RouterSection&) const = default;
};

struct RegularizerSection {
  enum class Kind { kAdaptive, kConstant, kNoNll, kNoDisagreement, kTargetRatio, kNone };
  enum class Disagreement { kMean, kSum };
  Kind kind = Kind::kAdaptive;
  double gamma = 1e-3;
  double eps = 0.1;
  double alpha = 100;
  bool detach_gamma = true;
  Disagreement disagreement = Disagreement::kMean;
  std::optional<double> target_ratio;

  bool operator==(const RegularizerSection&) const = default;
};

// Token shards to train on, and their share of the samples.
struct DataSource {
  std::string path;  // a prefix or a file
  double weight = 1.0;
  std::optional<int64_t> eos_id;

  bool operator==(const DataSource&) const = default;
};

// Token shards to validate on.
struct ValidationSet {
  std::string name;
  std::string path;
  std::optional<int64_t> eos_id;

  bool operator==(const ValidationSet&) const = default;
};

struct DataSection {
  int64_t sequence_length = 4096;
  std::vector<DataSource> sources;
  std::vector<ValidationSet> validation;
  bool shuffle = true;
  int64_t min_document_tokens = 0;

  bool operator==(const DataSection&) const = default;
};

struct TrainSection {
  enum class Recompute { kNone, kLayer, kSelective };
  std::optional<int64_t> steps;
  std::optional<int64_t> tokens;
  int64_t global_batch = 32;  // sequences
  int64_t micro_batch = 1;    // sequences a rank computes at once
  Recompute recompute = Recompute::kNone;
  std::vector<std::string> freeze;

  bool operator==(const TrainSection&) const = default;
};

struct OptimizerSection {
  enum class Name { kAdamw };
  enum class Moments { kFloat32, kBfloat16 };
  Name name = Name::kAdamw;
  double learning_rate = 1e-4;
  std::array<double, 2> betas = {0.9, 0.95};
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip = 1.0;
  Moments moments = Moments::kFloat32;

  bool operator==(const OptimizerSection&) const = default;
};

struct ScheduleSection {
  enum class Kind { kCosine, kLinear, kWsd, kConstant };
  Kind kind = Kind::kCosine;
  Span warmup = {Span::Unit::kSteps, 500};
  double final_ratio = 0.1;
  Span decay = {Span::Unit::kPercent, 10};

  bool operator==(const ScheduleSection&) const = default;
};

struct ValidationSection {
  int64_t every = 500;
  int64_t batches = 16;

  bool operator==(const ValidationSection&) const = default;
};

struct CheckpointSection {
  int64_t every = 500;
  int64_t keep_last = 3;
  std::optional<int64_t> keep_every;
  bool export_at_end = true;

  bool operator==(const CheckpointSection&) const = default;
};

struct ParallelSection {
  enum class Shard { kAuto, kNone, kOptimizer, kFull };
  Shard shard = Shard::kAuto;
  int64_t context = 1;
  double timeout_first = 300;  // seconds
  double timeout = 100;

  bool operator==(const ParallelSection&) const = default;
};

// The steps to profile: `steps` of them, from step `start` on (counted from 1).
struct ProfileRange {
  int64_t start = 0;
  int64_t steps = 0;

  int64_t last() const { return start + steps - 1; }
  bool contains(int64_t step) const { return start <= step && step <= last(); }

  bool operator==(const ProfileRange&) const = default;
};

struct LogSection {
  int64_t every = 1;
  int64_t routing_every = 100;
  bool tensorboard = true;
  std::optional<ProfileRange> profile;

  bool operator==(const LogSection&) const = default;
};

struct PreemptSection {
  std::vector<int> signals = {SIGTERM, SIGUSR1};

  bool operator==(const PreemptSection&) const = default;
};

struct NumericsSection {
  enum class Deterministic { kAuto, kTrue, kFalse };
  bool skip_nonfinite = true;
  int64_t max_skips_in_a_row = 10;
  Deterministic deterministic = Deterministic::kAuto;

  bool operator==(const NumericsSection&) const = default;
};

struct RunConfig {
  RunSection run;
  ModelSection model;
  AttentionSection attention;
  RouterSection router;
  RegularizerSection regularizer;
  DataSection data;
  TrainSection train;
  OptimizerSection optimizer;
  ScheduleSection schedule;
  ValidationSection validation;
  CheckpointSection checkpoint;
  ParallelSection parallel;
  LogSection log;
  PreemptSection preempt;
  NumericsSection numerics;

  // Of a valid configuration. A run given in tokens takes the fewest steps that reach them; spans
  // given in tokens are rounded up to whole steps, those in percent to the nearest.
  int64_t total_steps() const;
  bool validates_after(int64_t step) const;
  int64_t warmup_steps() const;
  int64_t decay_steps() const;  // of the wsd schedule
  int64_t tokens_per_step() const { return train.global_batch * data.sequence_length; }

  bool operator==(const RunConfig&) const = default;
};

// Defaults < the YAML text < overrides ("--section.key=value", the value in YAML; of equal keys the
// last one counts). Throws Error{kConfiguration} that names the place and the key: for YAML that
// parse_yaml() refuses, an unknown key (with the nearest one suggested), a wrong type or range, a
// missing required key, and what check_run_config() refuses.
RunConfig parse_run_config(std::string_view text, const std::string& source,
                           const std::vector<std::string>& overrides);
RunConfig read_run_config(const std::string& path, const std::vector<std::string>& overrides);

// Refuses combinations of keys that make no sense or are not supported in this version.
void check_run_config(const RunConfig& config);

// The whole configuration as YAML that parse_run_config() reads back to an equal one.
std::string print_run_config(const RunConfig& config);

// The same as {section: {key: value}}.
nlohmann::ordered_json run_config_json(const RunConfig& config);

// The hash of all keys.
uint64_t hash_run_config(const RunConfig& config);

// Whether there is a key "section.key".
bool is_config_key(const std::string& key);

// A key whose value differs between the configuration of a checkpoint and that of a resume.
struct ConfigChange {
  std::string key;  // "attention.window"
  std::string before, after;
  bool alters_training;  // the mathematics or data of the remaining steps: refused unless allowed
};
// Of attention.far_sampling, `enabled: false` is the same whatever stands beside it.
std::vector<ConfigChange> config_changes(const RunConfig& before, const RunConfig& after);

// The text of docs/config-reference.md.
std::string config_reference_markdown();

}  // namespace swiattn
