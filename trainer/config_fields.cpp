#include "trainer/config_fields.h"

#include "base/error.h"
#include "trainer/config_codec.h"

namespace swiattn {
namespace {

constexpr auto kOptional = Field::Needed::kOptional;
constexpr auto kRequired = Field::Needed::kRequired;
constexpr auto kRefused = Field::OnResume::kRefused;
constexpr auto kFree = Field::OnResume::kFree;
constexpr auto kThousand = QuantityBase::kThousand;
constexpr auto kBinary = QuantityBase::kBinary;

// What the buffers of NVIDIA's tracing library hold of large steps; a trace of more is too large
// for its viewers, too.
constexpr int64_t kMostProfiledSteps = 20;

template <class T>
Field field(std::string key, T& member, Codec<T> codec, Field::OnResume on_resume, std::string help,
            Field::Needed needed = kOptional) {
  Field made;
  made.key = std::move(key);
  made.help = std::move(help);
  made.values = codec.values;
  made.is_map = codec.is_map;
  made.needed = needed;
  made.on_resume = on_resume;
  made.read = [&member, codec](const YamlNode& node, const std::string& full_key) {
    member = codec.read(node, full_key);
  };
  made.write = [&member, codec] { return codec.write(member); };
  return made;
}

// A key of a map inside a value: the value's own key has the help and the rule for a resume.
template <class T>
Field entry(std::string key, T& member, Codec<T> codec, Field::Needed needed = kOptional) {
  return field(std::move(key), member, std::move(codec), kRefused, "", needed);
}

// A map with keys of its own: `fields_of` binds them to the members of a value.
template <class T>
Codec<T> map_of(std::vector<Field> (*fields_of)(T&)) {
  T example;
  std::vector<std::string> keys;
  for (const Field& inner : fields_of(example)) keys.push_back(inner.key);
  Codec<T> codec;
  codec.values = fmt::format("a map {{{}}}", fmt::join(keys, ", "));
  codec.is_map = true;
  codec.read = [=, expected = codec.values](const YamlNode& node, const std::string& key) {
    if (node.kind != YamlNode::Kind::kMap) refuse_value(node, key, expected);
    T value;
    const std::vector<Field> fields = fields_of(value);
    const std::set<std::string> given = read_fields(fields, node, key);
    for (const Field& inner : fields) {
      if (inner.needed == kRequired && !given.contains(inner.key)) {
        fail(ExitCode::kConfiguration, "{}: {}: the key \"{}\" is missing.", node.place, key,
             inner.key);
      }
    }
    return value;
  };
  codec.write = [=](const T& value) {
    T copy = value;
    std::vector<std::string> entries;
    for (const Field& inner : fields_of(copy)) {
      entries.push_back(inner.key + ": " + inner.write());
    }
    return fmt::format("{{{}}}", fmt::join(entries, ", "));
  };
  return codec;
}

std::vector<Field> rope_fields(RopeScaling& rope) {
  using Kind = RopeScaling::Kind;
  return {
      entry("type", rope.kind,
            choice<Kind>(
                {{Kind::kLinear, "linear"}, {Kind::kLlama3, "llama3"}, {Kind::kYarn, "yarn"}}),
            kRequired),
      entry("factor", rope.factor, number({.low = 1, .high = kLargestRopeFactor}), kRequired),
      entry("original_length", rope.original_length, whole(0, kBinary)),
      entry("low_freq_factor", rope.low_frequency_factor, number(kPositive)),
      entry("high_freq_factor", rope.high_frequency_factor, number(kPositive)),
      entry("beta_fast", rope.beta_fast, number(kPositive)),
      entry("beta_slow", rope.beta_slow, number(kPositive)),
      entry("attention_factor", rope.attention_factor, nullable(number(kPositive))),
      entry("mscale", rope.mscale, nullable(number(kPositive))),
      entry("mscale_all_dim", rope.mscale_all_dim, nullable(number(kPositive))),
      entry("truncate", rope.truncate, boolean()),
  };
}

std::vector<Field> source_fields(DataSource& source) {
  return {
      entry("path", source.path, text(), kRequired),
      entry("weight", source.weight, number(kPositive)),
      entry("eos_id", source.eos_id, nullable(whole(0))),
  };
}

std::vector<Field> validation_set_fields(ValidationSet& set) {
  return {
      entry("name", set.name, text(), kRequired),
      entry("path", set.path, text(), kRequired),
      entry("eos_id", set.eos_id, nullable(whole(0))),
  };
}

std::vector<Field> profile_fields(ProfileRange& profile) {
  return {
      entry("start", profile.start, whole(1), kRequired),
      entry("steps", profile.steps, whole(1, kThousand, kMostProfiledSteps), kRequired),
  };
}

std::vector<Field> far_sampling_fields(FarSamplingKeys& sampling) {
  return {
      entry("enabled", sampling.enabled, boolean(), kRequired),
      entry("minimum", sampling.minimum, number({.low = 0, .high = 1, .without_low = true})),
      entry("scale", sampling.scale, number(kNotNegative)),
  };
}

std::vector<Field> fields_of(RunSection& run) {
  return {
      field("folder", run.folder, text(), kFree,
            "Everything the run writes goes here; a run in it is continued.", kRequired),
      field("seed", run.seed, whole(0, kThousand, kLargestQuantity), kRefused,
            "Of the data order, new weights and all that is drawn."),
  };
}

std::vector<Field> fields_of(ModelSection& model) {
  using Compute = ModelSection::Compute;
  return {
      field("init_from", model.init_from, nullable(text()), kRefused,
            "A Hugging Face folder or a checkpoint of another run, for its weights. null: random "
            "weights of `architecture`.",
            kRequired),
      field("architecture", model.architecture, nullable(text()), kRefused,
            "With `init_from: null`, the Hugging Face config.json of the model to make."),
      field("compute", model.compute,
            choice<Compute>({{Compute::kFloat32, "float32"}, {Compute::kBfloat16, "bfloat16"}}),
            kRefused,
            "Of activations and matrix products; master weights and gradients are float32."),
      field("rope_scaling", model.rope_scaling, nullable(map_of(rope_fields)), kRefused,
            "Replaces the model's own, to extend its context, with the names of Hugging Face: "
            "`{type: yarn, factor: 8, original_length: 4K}`."),
  };
}

std::vector<Field> fields_of(AttentionSection& attention) {
  using Mode = AttentionSection::Mode;
  using Backend = AttentionSection::Backend;
  return {
      field("mode", attention.mode,
            choice<Mode>({{Mode::kFull, "full"},
                          {Mode::kWindow, "window"},
                          {Mode::kStatic, "static"},
                          {Mode::kSwitch, "switch"}}),
            kRefused, "static: full attention in `full_layers`, windows in the others."),
      field("window", attention.window, whole(1, kBinary), kRefused,
            "Keys that a token sees in window attention, its own included."),
      field("full_layers", attention.full_layers, list_of(whole(1)), kRefused,
            "With `mode: static`, the layers with full attention, counted from 1."),
      field("backend", attention.backend,
            choice<Backend>({{Backend::kAuto, "auto"},
                             {Backend::kReference, "reference"},
                             {Backend::kLibrary, "library"},
                             {Backend::kFused, "fused"}}),
            kFree, "The implementation of attention; auto takes the fastest that fits."),
      field("mask_documents", attention.mask_documents, boolean(), kRefused,
            "Attention stays inside a document, and positions restart with each."),
      field("far_sampling", attention.far_sampling, map_of(far_sampling_fields), kRefused,
            "With `mode: switch` and `enabled`, training visits the far keys of the tokens that "
            "chose them and of a sample of the others, each drawn with probability `scale * p * "
            "(1 - p)`, at least `minimum`, p the gate's: an unbiased router gradient, and faster "
            "on a GPU in bfloat16 with heads of 64 or 128 ([method](method.md#sampled-far-rows))."),
  };
}

std::vector<Field> fields_of(RouterSection& router) {
  using Gate = RouterSection::Gate;
  return {
      field("gate", router.gate,
            choice<Gate>(
                {{Gate::kLearned, "learned"}, {Gate::kRandom, "random"}, {Gate::kTopK, "top_k"}}),
            kRefused,
            "learned: full where the router's logit is positive. random: full with probability "
            "`ratio`. top_k: full for the share `ratio` of a sequence with the largest logits."),
      field("init_std", router.init_std, number(kNotNegative), kRefused,
            "Standard deviation of new router weights."),
      field("learning_rate_multiplier", router.learning_rate_multiplier, number(kNotNegative),
            kRefused, "The router's learning rate over that of the rest."),
      field("ratio", router.ratio, nullable(number(kShare)), kRefused,
            "The share of full tokens of the gates random and top_k."),
  };
}

std::vector<Field> fields_of(RegularizerSection& regularizer) {
  using Kind = RegularizerSection::Kind;
  using Disagreement = RegularizerSection::Disagreement;
  return {
      field("kind", regularizer.kind,
            choice<Kind>({{Kind::kAdaptive, "adaptive"},
                          {Kind::kConstant, "constant"},
                          {Kind::kNoNll, "no_nll"},
                          {Kind::kNoDisagreement, "no_disagreement"},
                          {Kind::kTargetRatio, "target_ratio"},
                          {Kind::kNone, "none"}}),
            kRefused,
            "The push to the window. adaptive: gamma / (eps + NLL + alpha * disagreement); "
            "no_nll and no_disagreement drop a term; constant: gamma; "
            "target_ratio: steered by its ratio."),
      field("gamma", regularizer.gamma, number(kNotNegative), kRefused, "Its strength."),
      field("eps", regularizer.eps, number(kDivisor), kRefused, "Keeps the denominator above 0."),
      field("alpha", regularizer.alpha, number(kNotNegative), kRefused,
            "The weight of the disagreement of the two branches."),
      field("detach_gamma", regularizer.detach_gamma, boolean(), kRefused,
            "No gradient through the push; false works with `attention.backend: reference` only."),
      field("disagreement", regularizer.disagreement,
            choice<Disagreement>({{Disagreement::kMean, "mean"}, {Disagreement::kSum, "sum"}}),
            kRefused,
            "Mean or sum over heads and width of the squared difference of the branches."),
      field("target_ratio", regularizer.target_ratio,
            nullable(number({.low = 0, .high = 1, .without_low = true, .without_high = true})),
            kRefused, "The share of full tokens that `kind: target_ratio` steers to."),
  };
}

std::vector<Field> fields_of(DataSection& data) {
  return {
      field("sequence_length", data.sequence_length, whole(1, kBinary), kRefused,
            "Tokens of a sample."),
      field("sources", data.sources, list_of(map_of(source_fields)), kRefused,
            "Token shards and their share of the samples; `eos_id` finds the documents of shards "
            "that do not list them: `[{path: PREFIX, weight: 1.0, eos_id: null}]`.",
            kRequired),
      field("validation", data.validation, list_of(map_of(validation_set_fields)), kFree,
            "Token shards to validate on: `[{name: NAME, path: PREFIX}]`."),
      field("shuffle", data.shuffle, boolean(), kRefused,
            "Each pass over a source comes in a new order; false: in the order of the file."),
      field("min_document_tokens", data.min_document_tokens, whole(0), kRefused,
            "Shorter documents are left out."),
  };
}

std::vector<Field> fields_of(TrainSection& train) {
  using Recompute = TrainSection::Recompute;
  return {
      field("steps", train.steps, nullable(whole(1)), kRefused,
            "The length of the run: either this or `tokens`."),
      field("tokens", train.tokens, nullable(whole(1, kThousand, kLargestQuantity)), kRefused,
            "The length of the run in input tokens, rounded up to whole steps."),
      field("global_batch", train.global_batch, whole(1), kRefused,
            "Sequences of a step, over all ranks."),
      field("micro_batch", train.micro_batch, whole(1), kFree,
            "Sequences that a rank computes at once."),
      field(
          "recompute", train.recompute,
          choice<Recompute>({{Recompute::kNone, "none"},
                             {Recompute::kLayer, "layer"},
                             {Recompute::kSelective, "selective"}}),
          kFree,
          "What the backward pass computes again to save memory: nothing, each layer but its "
          "attention (selective), or all of it (layer). Where a run is deterministic, its numbers "
          "do not depend on it."),
      field("freeze", train.freeze, list_of(text()), kRefused,
            "Globs over the names of tensors to leave as they are; the last match wins and "
            "`!` frees: `['*', '!*.router.*']`."),
  };
}

std::vector<Field> fields_of(OptimizerSection& optimizer) {
  using Name = OptimizerSection::Name;
  using Moments = OptimizerSection::Moments;
  return {
      field("name", optimizer.name, choice<Name>({{Name::kAdamw, "adamw"}}), kRefused,
            "The update rule."),
      field("learning_rate", optimizer.learning_rate, number(kPositive), kRefused, "At its peak."),
      field("betas", optimizer.betas, pair_of(number({.low = 0, .high = 1, .without_high = true})),
            kRefused, "Decay of the first and second moment."),
      field("eps", optimizer.eps, number(kDivisor), kRefused,
            "Added to the root of the second moment."),
      field("weight_decay", optimizer.weight_decay, number(kNotNegative), kRefused,
            "Decoupled; on matrices and embeddings, not on norms, biases and the router. Times "
            "`learning_rate` it must be below 1."),
      field("clip", optimizer.clip, number(kPositive), kRefused,
            "Gradients are scaled to at most this L2 norm of all together."),
      field("moments", optimizer.moments,
            choice<Moments>({{Moments::kFloat32, "float32"}, {Moments::kBfloat16, "bfloat16"}}),
            kRefused,
            "The type in which the moments are kept; bfloat16 halves them, and rounds at random so "
            "that their means are exact."),
  };
}

std::vector<Field> fields_of(ScheduleSection& schedule) {
  using Kind = ScheduleSection::Kind;
  return {
      field(
          "kind", schedule.kind,
          choice<Kind>({{Kind::kCosine, "cosine"},
                        {Kind::kLinear, "linear"},
                        {Kind::kWsd, "wsd"},
                        {Kind::kConstant, "constant"}}),
          kRefused,
          "From the peak to the final rate after the warm-up; wsd stays at the peak until `decay`, "
          "then goes straight down; constant stays there."),
      field("warmup", schedule.warmup, span(false), kRefused,
            "The learning rate grows linearly from 0 to its peak over this."),
      field("final_ratio", schedule.final_ratio, number(kShare), kRefused,
            "The learning rate of the last step over the peak."),
      field("decay", schedule.decay, span(true), kRefused,
            "The last part of the run, in which wsd goes down."),
  };
}

std::vector<Field> fields_of(ValidationSection& validation) {
  return {
      field("every", validation.every, whole(1), kFree, "Steps between validations."),
      field("batches", validation.batches, whole(1), kFree,
            "Of each set the first `batches * train.global_batch` samples."),
  };
}

std::vector<Field> fields_of(CheckpointSection& checkpoint) {
  return {
      field("every", checkpoint.every, whole(1), kFree, "Steps between checkpoints."),
      field("keep_last", checkpoint.keep_last, whole(1), kFree,
            "The newest ones that stay; while steps are skipped, all do."),
      field("keep_every", checkpoint.keep_every, nullable(whole(1)), kFree,
            "Those of steps that this divides stay too."),
      field("export_at_end", checkpoint.export_at_end, boolean(), kFree,
            "Write the Hugging Face folder `hybrid/` after the last step."),
  };
}

std::vector<Field> fields_of(ParallelSection& parallel) {
  using Shard = ParallelSection::Shard;
  return {
      field("shard", parallel.shard,
            choice<Shard>({{Shard::kAuto, "auto"},
                           {Shard::kNone, "none"},
                           {Shard::kOptimizer, "optimizer"},
                           {Shard::kFull, "full"}}),
            kFree,
            "What is divided among the ranks instead of repeated on each; in this version auto and "
            "none only."),
      field("context", parallel.context, whole(1), kFree,
            "Ranks that share one sequence; in this version 1 only."),
      field("timeout_first", parallel.timeout_first, duration(), kFree,
            "How long ranks wait for each other until the first step has ended, and while rank 0 "
            "writes a checkpoint, a profile or the export."),
      field("timeout", parallel.timeout, duration(), kFree, "How long they wait otherwise."),
  };
}

std::vector<Field> fields_of(LogSection& log) {
  return {
      field("every", log.every, whole(1), kFree, "Steps between lines on the console."),
      field("routing_every", log.routing_every, whole(1), kFree,
            "Steps between the files of `routing/`."),
      field("tensorboard", log.tensorboard, boolean(), kFree, "Write `tensorboard/`."),
      field(
          "profile", log.profile, nullable(map_of(profile_fields)), kFree,
          "Profile `steps` steps (at most 20) from step `start` on: trace and tables in `profile/` "
          "([profiling](profiling.md))."),
  };
}

std::vector<Field> fields_of(PreemptSection& preempt) {
  return {
      field("signals", preempt.signals,
            list_of(choice<int>({{SIGTERM, "SIGTERM"},
                                 {SIGUSR1, "SIGUSR1"},
                                 {SIGUSR2, "SIGUSR2"},
                                 {SIGINT, "SIGINT"},
                                 {SIGHUP, "SIGHUP"}})),
            kFree, "Signals upon which the run saves and ends with exit code 75."),
  };
}

std::vector<Field> fields_of(NumericsSection& numerics) {
  using Deterministic = NumericsSection::Deterministic;
  return {
      field("skip_nonfinite", numerics.skip_nonfinite, boolean(), kRefused,
            "A step with a non-finite loss or gradient, or without a token that has a target, "
            "changes no weight; false: it ends the run."),
      field("max_skips_in_a_row", numerics.max_skips_in_a_row, whole(1), kFree,
            "This many skipped steps in a row end the run with exit code 6."),
      field("deterministic", numerics.deterministic,
            choice<Deterministic>({{Deterministic::kAuto, "auto"},
                                   {Deterministic::kTrue, "true"},
                                   {Deterministic::kFalse, "false"}}),
            kFree,
            "The same bits from the same binary, data and machine. auto: true on the CPU, and on a "
            "GPU where it is known to cost at most 5 %: with our own kernels (attention.backend "
            "auto or fused, bfloat16, heads of 64 or 128) in attention.mode switch, and, on an "
            "H100 or H200 alone, in mode window with windows up to 4K, or with sequences up to "
            "4K."),
  };
}

}  // namespace

std::vector<Section> sections_of(RunConfig& config) {
  return {
      {"run", "Where the run lives.", fields_of(config.run)},
      {"model", "What is trained.", fields_of(config.model)},
      {"attention", "Full attention, windows, or a choice for every token.",
       fields_of(config.attention)},
      {"router", "How `mode: switch` chooses.", fields_of(config.router)},
      {"regularizer", "What makes the router spare full attention.", fields_of(config.regularizer)},
      {"data", "What it is trained on.", fields_of(config.data)},
      {"train", "How long, and in which portions.", fields_of(config.train)},
      {"optimizer", "The update of the weights.", fields_of(config.optimizer)},
      {"schedule", "The learning rate over the run.", fields_of(config.schedule)},
      {"validation", "Measuring during the run.", fields_of(config.validation)},
      {"checkpoint", "Saving during the run.", fields_of(config.checkpoint)},
      {"parallel", "Several processes.", fields_of(config.parallel)},
      {"log", "What is recorded.", fields_of(config.log)},
      {"preempt", "Being stopped from outside.", fields_of(config.preempt)},
      {"numerics", "Non-finite numbers and repeatability.", fields_of(config.numerics)},
  };
}

}  // namespace swiattn
