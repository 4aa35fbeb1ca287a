// The rules between keys. Rules of single keys are their codecs'.
#include <algorithm>
#include <set>
#include <string>

#include "base/error.h"
#include "trainer/run_config.h"

namespace swiattn {
namespace {

constexpr int64_t kMostTokensOfAStep = (1LL << 31) - 1;

template <class... Args>
void refuse_if(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (condition) fail(ExitCode::kConfiguration, format, std::forward<Args>(args)...);
}

void check_model(const ModelSection& model) {
  refuse_if(!model.init_from && !model.architecture,
            "model.init_from is null: then model.architecture must name the config.json of the "
            "model to make.");
  refuse_if(
      model.init_from && model.architecture,
      "model.architecture is only for model.init_from: null; the model in \"{}\" has its own.",
      model.init_from.value_or(""));
  if (!model.rope_scaling) return;
  const RopeScaling& rope = *model.rope_scaling;
  refuse_if(
      rope.kind != RopeScaling::Kind::kLinear && rope.original_length < 1,
      "model.rope_scaling needs original_length, the context that the model was trained for.");
  refuse_if(rope.kind == RopeScaling::Kind::kLlama3 &&
                rope.low_frequency_factor >= rope.high_frequency_factor,
            "model.rope_scaling: low_freq_factor ({}) must be below high_freq_factor ({}).",
            rope.low_frequency_factor, rope.high_frequency_factor);
}

void check_attention(const AttentionSection& attention) {
  const bool is_static = attention.mode == AttentionSection::Mode::kStatic;
  const auto& layers = attention.full_layers;
  refuse_if(is_static && layers.empty(),
            "attention.mode static needs attention.full_layers; without full layers it is mode "
            "window.");
  refuse_if(!is_static && !layers.empty(),
            "attention.full_layers is only for attention.mode static; leave it out, or set that "
            "mode.");
  refuse_if(std::set<int64_t>(layers.begin(), layers.end()).size() != layers.size(),
            "attention.full_layers names a layer twice.");
  refuse_if(
      attention.far_sampling.enabled && attention.mode != AttentionSection::Mode::kSwitch,
      "attention.far_sampling is only for attention.mode switch; in the other modes no token has "
      "both branches.");
}

// In the other modes there is no router, and its keys mean nothing.
void check_routing(const RunConfig& config) {
  if (config.attention.mode != AttentionSection::Mode::kSwitch) return;
  using Gate = RouterSection::Gate;
  using Kind = RegularizerSection::Kind;
  const RouterSection& router = config.router;
  const RegularizerSection& regularizer = config.regularizer;
  refuse_if(router.gate != Gate::kLearned && !router.ratio,
            "router.gate {} needs router.ratio, the share of full tokens.",
            router.gate == Gate::kRandom ? "random" : "top_k");
  refuse_if(router.gate == Gate::kLearned && router.ratio,
            "router.ratio is only for router.gate random and top_k; a learned gate finds its own. "
            "regularizer.kind target_ratio steers it.");
  refuse_if(router.gate == Gate::kRandom && regularizer.kind != Kind::kNone,
            "router.gate random has no trained router, so that no regularizer can act on it; set "
            "regularizer.kind to none.");
  refuse_if(router.gate == Gate::kTopK && regularizer.kind == Kind::kTargetRatio,
            "router.gate top_k fixes the share of full tokens by router.ratio, so that "
            "regularizer.kind target_ratio has nothing to steer; choose another kind.");
  refuse_if(regularizer.kind == Kind::kTargetRatio && !regularizer.target_ratio,
            "regularizer.kind target_ratio needs regularizer.target_ratio.");
  refuse_if(regularizer.kind != Kind::kTargetRatio && regularizer.target_ratio,
            "regularizer.target_ratio is only for regularizer.kind target_ratio.");
  refuse_if(!regularizer.detach_gamma &&
                config.attention.backend != AttentionSection::Backend::kReference,
            "regularizer.detach_gamma false works with attention.backend reference only.");
  refuse_if(!regularizer.detach_gamma && config.attention.far_sampling.enabled,
            "regularizer.detach_gamma false needs the disagreement of every token; set "
            "attention.far_sampling to {{enabled: false}}.");
}

void check_data(const DataSection& data) {
  refuse_if(data.sources.empty(), "data.sources is empty; it must name at least one source.");
  std::set<std::string> names;
  for (const ValidationSet& set : data.validation) {
    refuse_if(
        !names.insert(set.name).second,
        "data.validation has two sets with the name \"{}\"; metrics could not tell them apart.",
        set.name);
  }
}

void check_length(const RunConfig& config) {
  const TrainSection& train = config.train;
  refuse_if(train.steps.has_value() == train.tokens.has_value(),
            "Exactly one of train.steps and train.tokens must be set; found {}.",
            train.steps ? "both" : "neither");
  refuse_if(train.global_batch % train.micro_batch != 0,
            "train.global_batch ({}) must be a multiple of train.micro_batch ({}).",
            train.global_batch, train.micro_batch);
  // The product of this with the steps fits into an int64_t too.
  refuse_if(config.tokens_per_step() > kMostTokensOfAStep,
            "data.sequence_length ({}) times train.global_batch ({}) is {} tokens a step; at most "
            "{} are supported.",
            config.data.sequence_length, train.global_batch, config.tokens_per_step(),
            kMostTokensOfAStep);
  refuse_if(config.warmup_steps() > config.total_steps(),
            "schedule.warmup ({} steps) is longer than the run ({} steps).", config.warmup_steps(),
            config.total_steps());
  refuse_if(config.schedule.kind == ScheduleSection::Kind::kWsd &&
                config.warmup_steps() + config.decay_steps() > config.total_steps(),
            "schedule.warmup ({} steps) and schedule.decay ({} steps) together are longer than the "
            "run ({} steps).",
            config.warmup_steps(), config.decay_steps(), config.total_steps());
}

// p -= lr * (… + decay * p): from a product of 1 on, decay turns weights around instead of
// shrinking them.
void check_optimizer(const OptimizerSection& optimizer) {
  const double shrinkage = optimizer.learning_rate * optimizer.weight_decay;
  refuse_if(shrinkage >= 1,
            "optimizer.learning_rate ({}) times optimizer.weight_decay ({}) is {:g}, so that a "
            "step would turn the weights around; it must be below 1.",
            optimizer.learning_rate, optimizer.weight_decay, shrinkage);
}

void check_log(const RunConfig& config) {
  const auto& profile = config.log.profile;
  refuse_if(
      profile && profile->last() > config.total_steps(),
      "log.profile ends with step {}, but the run has {} steps; lower its start or its steps.",
      profile ? profile->last() : 0, config.total_steps());
}

void check_supported(const RunConfig& config) {
  using Shard = ParallelSection::Shard;
  refuse_if(config.parallel.context > 1,
            "parallel.context above 1 is not supported in this version.");
  refuse_if(
      config.parallel.shard == Shard::kOptimizer || config.parallel.shard == Shard::kFull,
      "parallel.shard optimizer and full are not supported in this version; use auto or none.");
}

}  // namespace

void check_run_config(const RunConfig& config) {
  check_model(config.model);
  check_attention(config.attention);
  check_routing(config);
  check_data(config.data);
  check_length(config);
  check_optimizer(config.optimizer);
  check_log(config);
  check_supported(config);
}

}  // namespace swiattn
