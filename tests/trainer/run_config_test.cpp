#include "trainer/run_config.h"

#include "base/counter_random.h"
#include "base/file_system.h"
#include "base/utf8.h"
#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// The least that a configuration must say.
constexpr const char* kLeast = R"(
run: {folder: runs/x}
model: {init_from: models/base}
data: {sources: [{path: tokens}]}
train: {steps: 1000}
)";

RunConfig with(const std::vector<std::string>& overrides) {
  return parse_run_config(kLeast, "run.yaml", overrides);
}
std::string refusal_with(const std::vector<std::string>& overrides) {
  return sentence_of(ExitCode::kConfiguration, [&] { with(overrides); });
}
std::string refusal_of(const std::string& text) {
  return sentence_of(ExitCode::kConfiguration, [&] { parse_run_config(text, "run.yaml", {}); });
}

TEST(RunConfig, DefaultsAreThoseOfTheContract) {
  const RunConfig config = with({});
  RunConfig expected;
  expected.run.folder = "runs/x";
  expected.model.init_from = "models/base";
  expected.data.sources = {DataSource{"tokens", 1.0, std::nullopt}};
  expected.train.steps = 1000;
  EXPECT_EQ(config, expected);
  EXPECT_EQ(print_run_config(config), R"(run:
  folder: runs/x
  seed: 1234
model:
  init_from: models/base
  architecture: null
  compute: bfloat16
  rope_scaling: null
attention:
  mode: switch
  window: 1024
  full_layers: []
  backend: auto
  mask_documents: true
  far_sampling: {enabled: false, minimum: 0.02, scale: 0.5}
router:
  gate: learned
  init_std: 0.02
  learning_rate_multiplier: 1
  ratio: null
regularizer:
  kind: adaptive
  gamma: 0.001
  eps: 0.1
  alpha: 100
  detach_gamma: true
  disagreement: mean
  target_ratio: null
data:
  sequence_length: 4096
  sources: [{path: tokens, weight: 1, eos_id: null}]
  validation: []
  shuffle: true
  min_document_tokens: 0
train:
  steps: 1000
  tokens: null
  global_batch: 32
  micro_batch: 1
  recompute: none
  freeze: []
optimizer:
  name: adamw
  learning_rate: 0.0001
  betas: [0.9, 0.95]
  eps: 1e-08
  weight_decay: 0.1
  clip: 1
  moments: float32
schedule:
  kind: cosine
  warmup: 500
  final_ratio: 0.1
  decay: 10%
validation:
  every: 500
  batches: 16
checkpoint:
  every: 500
  keep_last: 3
  keep_every: null
  export_at_end: true
parallel:
  shard: auto
  context: 1
  timeout_first: 300s
  timeout: 100s
log:
  every: 1
  routing_every: 100
  tensorboard: true
  profile: null
preempt:
  signals: [SIGTERM, SIGUSR1]
numerics:
  skip_nonfinite: true
  max_skips_in_a_row: 10
  deterministic: auto
)");
}

// One value other than the default for every key (where this version supports one).
const std::vector<std::string> kEveryKey = {
    "--run.folder='a folder: with signs'",
    "--run.seed=7",
    "--model.init_from=null",
    "--model.architecture=configs/models/paper-1b.json",
    "--model.compute=float32",
    "--model.rope_scaling={type: yarn, factor: 8, original_length: 4K, mscale: 0.707}",
    "--attention.mode=switch",
    "--attention.window=2K",
    "--attention.backend=reference",
    "--attention.mask_documents=false",
    "--attention.far_sampling={enabled: false, minimum: 0.1, scale: 2}",
    "--router.gate=top_k",
    "--router.init_std=0",
    "--router.learning_rate_multiplier=10.5",
    "--router.ratio=0.13",
    "--regularizer.kind=no_nll",
    "--regularizer.gamma=1.0e-2",
    "--regularizer.eps=0.3333333333333333",
    "--regularizer.alpha=0",
    "--regularizer.detach_gamma=false",
    "--regularizer.disagreement=sum",
    "--data.sequence_length=32K",
    "--data.sources=[{path: a, weight: 0.7, eos_id: 2}, {path: 'b, c', weight: 1e-3}]",
    "--data.validation=[{name: v, path: w, eos_id: 0}, {name: 'null', path: \"'\"}]",
    "--data.shuffle=false",
    "--data.min_document_tokens=4K",
    "--train.steps=null",
    "--train.tokens=20B",
    "--train.global_batch=64",
    "--train.micro_batch=4",
    "--train.recompute=selective",
    "--train.freeze=['*', '!*.router.*']",
    "--optimizer.learning_rate=2e-4",
    "--optimizer.betas=[0.95, 0.999]",
    "--optimizer.eps=1e-6",
    "--optimizer.weight_decay=0",
    "--optimizer.clip=0.5",
    "--schedule.kind=wsd",
    "--schedule.warmup=100M tokens",
    "--schedule.final_ratio=0",
    "--schedule.decay=12.5%",
    "--validation.every=1K",
    "--validation.batches=1",
    "--checkpoint.every=250",
    "--checkpoint.keep_last=1",
    "--checkpoint.keep_every=1000",
    "--checkpoint.export_at_end=false",
    "--parallel.shard=none",
    "--parallel.timeout_first=10m",
    "--parallel.timeout=0.5s",
    "--log.every=10",
    "--log.routing_every=50",
    "--log.tensorboard=false",
    "--log.profile={start: 11, steps: 3}",
    "--preempt.signals=[SIGUSR2]",
    "--numerics.skip_nonfinite=false",
    "--numerics.max_skips_in_a_row=3",
    "--numerics.deterministic=false",
};

TEST(RunConfig, EveryKeyCanBeSetOnTheCommandLine) {
  const RunConfig config = with(kEveryKey);
  EXPECT_EQ(config.run.folder, "a folder: with signs");
  EXPECT_EQ(config.run.seed, 7);
  EXPECT_EQ(config.model.init_from, std::nullopt);
  EXPECT_EQ(config.model.architecture, "configs/models/paper-1b.json");
  EXPECT_EQ(config.model.compute, ModelSection::Compute::kFloat32);
  ASSERT_TRUE(config.model.rope_scaling);
  EXPECT_EQ(config.model.rope_scaling->kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(config.model.rope_scaling->factor, 8);
  EXPECT_EQ(config.model.rope_scaling->original_length, 4096);
  EXPECT_EQ(config.model.rope_scaling->mscale, 0.707);
  EXPECT_EQ(config.attention.window, 2048);
  EXPECT_EQ(config.attention.backend, AttentionSection::Backend::kReference);
  EXPECT_FALSE(config.attention.mask_documents);
  EXPECT_EQ(config.attention.far_sampling, (FarSamplingKeys{false, 0.1, 2}));
  EXPECT_EQ(config.router.gate, RouterSection::Gate::kTopK);
  EXPECT_EQ(config.router.init_std, 0);
  EXPECT_EQ(config.router.learning_rate_multiplier, 10.5);
  EXPECT_EQ(config.router.ratio, 0.13);
  EXPECT_EQ(config.regularizer.kind, RegularizerSection::Kind::kNoNll);
  EXPECT_EQ(config.regularizer.gamma, 0.01);
  EXPECT_EQ(config.regularizer.eps, 0.3333333333333333);
  EXPECT_EQ(config.regularizer.alpha, 0);
  EXPECT_FALSE(config.regularizer.detach_gamma);
  EXPECT_EQ(config.regularizer.disagreement, RegularizerSection::Disagreement::kSum);
  EXPECT_EQ(config.data.sequence_length, 32768);
  EXPECT_THAT(config.data.sources,
              ElementsAre(DataSource{"a", 0.7, 2}, DataSource{"b, c", 1e-3, std::nullopt}));
  EXPECT_THAT(config.data.validation,
              ElementsAre(ValidationSet{"v", "w", 0}, ValidationSet{"null", "'", std::nullopt}));
  EXPECT_FALSE(config.data.shuffle);
  EXPECT_EQ(config.data.min_document_tokens, 4000);
  EXPECT_EQ(config.train.steps, std::nullopt);
  EXPECT_EQ(config.train.tokens, 20000000000);
  EXPECT_EQ(config.train.global_batch, 64);
  EXPECT_EQ(config.train.micro_batch, 4);
  EXPECT_EQ(config.train.recompute, TrainSection::Recompute::kSelective);
  EXPECT_THAT(config.train.freeze, ElementsAre("*", "!*.router.*"));
  EXPECT_EQ(config.optimizer.learning_rate, 2e-4);
  EXPECT_THAT(config.optimizer.betas, ElementsAre(0.95, 0.999));
  EXPECT_EQ(config.optimizer.eps, 1e-6);
  EXPECT_EQ(config.optimizer.weight_decay, 0);
  EXPECT_EQ(config.optimizer.clip, 0.5);
  EXPECT_EQ(config.schedule.kind, ScheduleSection::Kind::kWsd);
  EXPECT_EQ(config.schedule.warmup, (Span{Span::Unit::kTokens, 1e8}));
  EXPECT_EQ(config.schedule.final_ratio, 0);
  EXPECT_EQ(config.schedule.decay, (Span{Span::Unit::kPercent, 12.5}));
  EXPECT_EQ(config.validation.every, 1000);
  EXPECT_EQ(config.validation.batches, 1);
  EXPECT_EQ(config.checkpoint.every, 250);
  EXPECT_EQ(config.checkpoint.keep_last, 1);
  EXPECT_EQ(config.checkpoint.keep_every, 1000);
  EXPECT_FALSE(config.checkpoint.export_at_end);
  EXPECT_EQ(config.parallel.shard, ParallelSection::Shard::kNone);
  EXPECT_EQ(config.parallel.timeout_first, 600);
  EXPECT_EQ(config.parallel.timeout, 0.5);
  EXPECT_EQ(config.log.every, 10);
  EXPECT_EQ(config.log.routing_every, 50);
  EXPECT_FALSE(config.log.tensorboard);
  EXPECT_EQ(config.log.profile, (ProfileRange{11, 3}));
  EXPECT_THAT(config.preempt.signals, ElementsAre(SIGUSR2));
  EXPECT_FALSE(config.numerics.skip_nonfinite);
  EXPECT_EQ(config.numerics.max_skips_in_a_row, 3);
  EXPECT_EQ(config.numerics.deterministic, NumericsSection::Deterministic::kFalse);
}

TEST(RunConfig, WhatIsPrintedReadsBackTheSame) {
  for (const RunConfig& config : {with({}), with(kEveryKey)}) {
    const std::string text = print_run_config(config);
    const RunConfig again = parse_run_config(text, "printed", {});
    EXPECT_EQ(again, config) << text;
    EXPECT_EQ(print_run_config(again), text);
  }
}

TEST(RunConfig, WordsOfEveryChoiceReadBackTheSame) {
  for (const char* argument :
       {"--attention.mode=full", "--attention.mode=window", "--attention.backend=library",
        "--attention.backend=fused", "--regularizer.kind=constant",
        "--regularizer.kind=no_disagreement", "--regularizer.kind=none", "--schedule.kind=linear",
        "--schedule.kind=constant", "--numerics.deterministic=true", "--schedule.decay=50",
        "--schedule.decay=50 steps", "--schedule.decay=1e6 tokens",
        "--model.rope_scaling={type: linear, factor: 2}",
        "--model.rope_scaling={type: llama3, factor: 2, original_length: 8K, truncate: false}"}) {
    const RunConfig config = with({argument});
    EXPECT_NE(config, with({})) << argument;
    EXPECT_EQ(parse_run_config(print_run_config(config), "printed", {}), config) << argument;
  }
}

TEST(RunConfig, TheCommandLineGoesBeforeTheFileAndItsLastWordCounts) {
  EXPECT_EQ(with({"--train.steps=600", "--train.steps=700"}).train.steps, 700);
}

TEST(RunConfig, AnEmptySectionKeepsItsDefaults) {
  EXPECT_EQ(parse_run_config(std::string(kLeast) + "log:\n  # every: 2\n", "run.yaml", {}),
            with({}));
}

TEST(RunConfig, UnknownKeysAreRefusedWithTheNearestOne) {
  EXPECT_EQ(refusal_of("run:\n  folder: x\n  sed: 1\n"),
            "run.yaml:3: run.sed: there is no such key; did you mean \"seed\"?");
  EXPECT_EQ(refusal_of("atention: {window: 1}\n"),
            "run.yaml:1: atention: there is no such section; did you mean \"attention\"?");
  EXPECT_EQ(refusal_with({"--router.gatte=learned"}),
            "command line: router.gatte: there is no such key; did you mean \"gate\"?");
  EXPECT_EQ(refusal_with({"--router.xyz=1"}),
            "command line: router.xyz: there is no such key; it must be one of gate, "
            "init_std, learning_rate_multiplier, ratio.");
  EXPECT_THAT(refusal_of("xyz: {}\n"),
              HasSubstr("there is no such section; it must be one of run, model"));
  EXPECT_EQ(refusal_with({"--data.sources=[{path: x, wieght: 2}]"}),
            "command line: data.sources[0].wieght: there is no such key; did you mean \"weight\"?");
}

TEST(RunConfig, ArgumentsThatSetNoKeyAreRefused) {
  for (const char* argument :
       {"--dry", "train.steps=5", "--train=5", "steps", "--=1", "-train.steps=1"}) {
    EXPECT_THAT(refusal_with({argument}), HasSubstr("is set by --section.key=value")) << argument;
    EXPECT_THAT(refusal_with({argument}), HasSubstr(argument));
  }
  EXPECT_THAT(refusal_with({"--train.steps="}), HasSubstr("Exactly one of"));
  EXPECT_THAT(refusal_with({"--train.=1"}), HasSubstr("there is no such key"));
  EXPECT_THAT(refusal_with({"--.=1"}), HasSubstr("there is no such section"));
  EXPECT_THAT(refusal_with({"--run.folder=a: b: c"}), HasSubstr("not valid YAML"));
  EXPECT_THAT(refusal_with({"--run.folder=a: b: c"}), HasSubstr("--run.folder=a: b: c"));
  EXPECT_THAT(refusal_with({"--train.freeze=[*]"}), StartsWith("command line: "));
}

TEST(RunConfig, DuplicateKeysAreRefused) {
  EXPECT_THAT(refusal_of("run: {folder: x}\nrun: {seed: 1}\n"), HasSubstr("\"run\" stands twice"));
  EXPECT_THAT(refusal_of("run: {folder: x, folder: y}\n"), HasSubstr("\"folder\" stands twice"));
}

TEST(RunConfig, WrongTypesAreRefusedWithPlaceKeyAndExpectation) {
  EXPECT_EQ(refusal_of("attention:\n  window: wide\n"),
            "run.yaml:2: attention.window: expected a whole number such as 4096, 4K, 20B or 1e6, "
            "found \"wide\".");
  EXPECT_EQ(
      refusal_of("attention:\n  window: 0\n"),
      "run.yaml:2: attention.window: expected a whole number >= 1 (4K is 4096), found \"0\".");
  EXPECT_EQ(
      refusal_of("router: {gate: leraned}\n"),
      "run.yaml:1: router.gate: expected one of learned, random, top_k (did you mean learned?), "
      "found \"leraned\".");
  EXPECT_EQ(refusal_of("run: [x]\n"), "run.yaml:1: run: expected a map of keys, found a list.");
  EXPECT_EQ(refusal_of("- run\n"), "run.yaml:1: expected sections such as \"run:\", found a list.");
  EXPECT_EQ(refusal_of("run: {folder: null}\n"),
            "run.yaml:1: run.folder: expected a text, found null.");
  const std::pair<const char*, const char*> wrong[] = {
      {"--run.folder=''", "a text"},
      {"--run.folder=[a]", "a text"},
      {"--run.seed=-1", "a whole number"},
      {"--run.seed=1.5", "not whole"},
      {"--model.init_from=''", "a text"},
      {"--model.compute=float16", "one of float32, bfloat16"},
      {"--model.rope_scaling=yarn", "a map {type, factor, original_length"},
      {"--model.rope_scaling={factor: 8}", "the key \"type\" is missing"},
      {"--model.rope_scaling={type: yarn}", "the key \"factor\" is missing"},
      {"--model.rope_scaling={type: yarn, factor: 0.5}",
       "rope_scaling.factor: expected a number >= 1"},
      {"--model.rope_scaling={type: yarn, factor: 1e7}", "rope_scaling.factor: expected a number"},
      {"--attention.mask_documents=yes", "true or false"},
      {"--attention.mask_documents=1", "true or false"},
      {"--attention.full_layers=4", "a list"},
      {"--attention.full_layers=[0]", "attention.full_layers[0]: expected a whole number >= 1"},
      {"--attention.full_layers=[[4]]", "a whole number >= 1"},
      {"--router.init_std=-0.1", "a number >= 0"},
      {"--router.ratio=1.01", "a number >= 0 and <= 1"},
      {"--regularizer.gamma=1e-3x", "a number >= 0"},
      {"--regularizer.gamma=", "found null"},
      {"--regularizer.gamma=nan", "a number"},
      {"--regularizer.gamma=inf", "a number"},
      {"--regularizer.gamma=.inf", "not a finite number"},
      {"--regularizer.gamma=1e999", "a number"},
      {"--regularizer.gamma=0x10", "a number"},
      {"--regularizer.gamma=010", "could be octal"},
      {"--regularizer.eps=0", "a number >= 1.2e-38"},
      {"--regularizer.gamma=-1", "a number >= 0"},
      {"--optimizer.clip=0", "a number > 0"},
      {"--regularizer.target_ratio=1", "a number > 0 and < 1"},
      {"--data.sources=tokens", "a list, each element a map {path, weight, eos_id}"},
      {"--data.sources=[tokens]", "data.sources[0]: expected a map"},
      {"--data.sources=[{weight: 1}]", "the key \"path\" is missing"},
      {"--data.sources=[{path: x, weight: 0}]", "data.sources[0].weight: expected a number > 0"},
      {"--data.sources=[{path: x, eos_id: -1}]", "data.sources[0].eos_id"},
      {"--data.sources=[{path: x, eos_id: 4294967298}]", "at most 2147483647"},
      {"--data.validation=[{name: v, path: x, eos_id: 2147483648}]", "at most 2147483647"},
      {"--data.sequence_length=8192T", "at most 2147483647"},
      {"--attention.window=2B", "at most 2147483647"},
      {"--train.global_batch=3B", "at most 2147483647"},
      {"--train.steps=3B", "at most 2147483647"},
      {"--train.tokens=1e16", "above 2^53"},
      {"--data.sources=[{path: x, path: y}]", "stands twice"},
      {"--attention.far_sampling=true", "a map {enabled, minimum, scale}"},
      {"--attention.far_sampling={enabled: true, minimum: 0}",
       "attention.far_sampling.minimum: expected a number > 0 and <= 1"},
      {"--attention.far_sampling={enabled: true, minimum: 1.1}", "a number > 0 and <= 1"},
      {"--attention.far_sampling={enabled: true, scale: -1}", "a number >= 0"},
      {"--attention.far_sampling={scale: 2}", "the key \"enabled\" is missing"},
      {"--data.validation=[{path: x}]", "the key \"name\" is missing"},
      {"--train.global_batch=0", "a whole number >= 1"},
      {"--train.freeze='*'", "a list, each element a text"},
      {"--optimizer.name=sgd", "one of adamw"},
      {"--optimizer.betas=[0.9]", "a list of two"},
      {"--optimizer.betas=[0.9, 1]", "optimizer.betas[1]: expected a number >= 0 and < 1"},
      {"--optimizer.learning_rate=0", "a number > 0"},
      {"--schedule.warmup=10%", "steps (500) or tokens (2B tokens)"},
      {"--schedule.warmup=-1", "a whole number"},
      {"--schedule.warmup=5 weeks", "steps (500) or tokens (2B tokens)"},
      {"--schedule.warmup=tokens", "a whole number"},
      {"--schedule.decay=101%", "a share of the run (10%)"},
      {"--schedule.decay=%", "a share of the run (10%)"},
      {"--parallel.timeout=0", "a duration"},
      {"--parallel.timeout=forever", "a duration"},
      {"--parallel.timeout=1e10s", "at most 100000000s"},
      {"--parallel.timeout_first=1e308h", "at most 100000000s"},
      {"--optimizer.eps=1e-300", "optimizer.eps: expected a number >= 1.2e-38"},
      {"--optimizer.eps=1e-38", "optimizer.eps: expected a number >= 1.2e-38"},
      {"--regularizer.eps=1e-45", "regularizer.eps: expected a number >= 1.2e-38"},
      {"--train.recompute",
       "--train.recompute needs its value after an equals sign: --train.recompute=VALUE."},
      {"--attention.far_sampling.enabled=true",
       "attention.far_sampling is given whole: --attention.far_sampling='{enabled: true}', with "
       "its other keys where they are needed. It must be a map {enabled, minimum, scale}."},
      {"--log.profile.start=3", "log.profile is given whole: --log.profile='{start: 3}'"},
      {"--model.rope_scaling.type=yarn", "model.rope_scaling is given whole: "},
      {"--attention.windw.x=3", "attention.windw.x: there is no such key"},
      {"--attention.window.foo=3", "attention.window.foo: there is no such key"},
      {"--regularizer.eps.x=1", "regularizer.eps.x: there is no such key"},
      {"--data.sources.path=tokens", "data.sources.path: there is no such key"},
      {"--log.profile={start: 1}", "the key \"steps\" is missing"},
      {"--log.profile={start: 0, steps: 2}", "log.profile.start: expected a whole number >= 1"},
      {"--log.profile={start: 1, steps: 21}", "at most 20"},
      {"--preempt.signals=[SIGKILL]", "one of SIGTERM, SIGUSR1"},
      {"--numerics.deterministic=maybe", "one of auto, true, false"},
  };
  for (const auto& [argument, expected] : wrong) {
    EXPECT_THAT(refusal_with({argument}), StartsWith("command line: ")) << argument;
    EXPECT_THAT(refusal_with({argument}), HasSubstr(expected)) << argument;
  }
}

TEST(RunConfig, RequiredKeysMustBeWritten) {
  EXPECT_EQ(refusal_of(""), "run.yaml: run.folder is required: a text.");
  EXPECT_EQ(refusal_of("run: {folder: x}\n"),
            "run.yaml: model.init_from is required: a text, or null.");
  EXPECT_THAT(refusal_of("run: {folder: x}\nmodel: {init_from: y}\n"),
              HasSubstr("data.sources is required"));
}

TEST(RunConfig, CombinationsThatMakeNoSenseAreRefused) {
  const std::pair<std::vector<std::string>, const char*> wrong[] = {
      {{"--model.init_from=null"}, "then model.architecture must name the config.json"},
      {{"--model.architecture=a.json"}, "model.architecture is only for model.init_from: null"},
      {{"--model.rope_scaling={type: yarn, factor: 8}"}, "needs original_length"},
      {{"--model.rope_scaling={type: llama3, factor: 8, original_length: 8K, low_freq_factor: 4}"},
       "low_freq_factor (4) must be below high_freq_factor (4)"},
      {{"--attention.full_layers=[4]"}, "only for attention.mode static"},
      {{"--attention.mode=static"}, "needs attention.full_layers"},
      {{"--attention.mode=static", "--attention.full_layers=[4, 8, 4]"}, "names a layer twice"},
      {{"--attention.mode=window", "--attention.far_sampling={enabled: true}"},
       "attention.far_sampling is only for attention.mode switch"},
      {{"--attention.far_sampling={enabled: true}", "--attention.backend=reference",
        "--regularizer.detach_gamma=false"},
       "regularizer.detach_gamma false needs the disagreement of every token"},
      {{"--router.gate=random", "--regularizer.kind=none"},
       "router.gate random needs router.ratio"},
      {{"--router.gate=top_k"}, "router.gate top_k needs router.ratio"},
      {{"--router.ratio=0.5"}, "router.ratio is only for"},
      {{"--router.gate=random", "--router.ratio=0.5"}, "set regularizer.kind to none"},
      {{"--router.gate=top_k", "--router.ratio=0.5", "--regularizer.kind=target_ratio",
        "--regularizer.target_ratio=0.5"},
       "nothing to steer"},
      {{"--regularizer.kind=target_ratio"}, "needs regularizer.target_ratio"},
      {{"--regularizer.target_ratio=0.2"}, "only for regularizer.kind target_ratio"},
      {{"--regularizer.detach_gamma=false"}, "works with attention.backend reference only"},
      {{"--data.sources=[]"}, "must name at least one source"},
      {{"--data.validation=[{name: a, path: x}, {name: a, path: y}]"},
       "two sets with the name \"a\""},
      {{"--train.steps=null"}, "found neither"},
      {{"--train.tokens=1B"}, "found both"},
      {{"--train.micro_batch=3"},
       "train.global_batch (32) must be a multiple of train.micro_batch (3)"},
      {{"--train.steps=499"}, "schedule.warmup (500 steps) is longer than the run (499 steps)"},
      {{"--train.steps=549", "--schedule.kind=wsd"}, "schedule.decay (55 steps) together"},
      {{"--optimizer.learning_rate=10"},
       "optimizer.learning_rate (10) times optimizer.weight_decay (0.1) is 1,"},
      {{"--optimizer.weight_decay=1e15"}, "would turn the weights around"},
      {{"--parallel.context=2"}, "not supported in this version"},
      {{"--parallel.shard=optimizer"}, "not supported in this version"},
      {{"--parallel.shard=full"}, "not supported in this version"},
      {{"--train.steps=600", "--log.profile={start: 600, steps: 2}"},
       "log.profile ends with step 601, but the run has 600 steps"},
      {{"--data.sequence_length=1M", "--train.global_batch=2048"},
       "data.sequence_length (1048576) times train.global_batch (2048) is 2147483648 tokens a "
       "step; at most 2147483647"},
  };
  for (const auto& [arguments, expected] : wrong) {
    EXPECT_THAT(refusal_with(arguments), HasSubstr(expected)) << arguments[0];
  }
}

TEST(RunConfig, CombinationsThatMakeSenseAreAccepted) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"--attention.mode=static", "--attention.full_layers=[4,8]"},
           {"--router.gate=random", "--router.ratio=0", "--regularizer.kind=none"},
           {"--router.gate=top_k", "--router.ratio=1"},
           {"--regularizer.kind=target_ratio", "--regularizer.target_ratio=0.13"},
           {"--regularizer.detach_gamma=false", "--attention.backend=reference"},
           {"--attention.far_sampling={enabled: true}"},
           {"--attention.mode=full", "--attention.far_sampling={enabled: false, minimum: 1}"},
           {"--train.steps=500"},
           {"--optimizer.eps=1.2e-38", "--regularizer.eps=1.2e-38"},
           {"--optimizer.learning_rate=9"},
           {"--optimizer.learning_rate=1e3", "--optimizer.weight_decay=0"},
           {"--train.steps=556", "--schedule.kind=wsd"},
           {"--train.steps=1", "--schedule.warmup=0"},
           {"--train.steps=600", "--log.profile={start: 599, steps: 2}"},
           {"--attention.mode=full", "--router.gate=random"}}) {
    EXPECT_NO_THROW(with(arguments)) << arguments[0];
  }
}

TEST(RunConfig, NoDamageToAFileDoesMoreThanAnError) {
  const std::string text = print_run_config(with(kEveryKey));
  int accepted = 0;
  for (uint64_t n = 0; n < 1000; ++n) {
    std::string damaged = text;
    for (uint64_t i = 0; i <= n % 4; ++i) {
      const uint64_t bits = counter_bits({n, i});
      const size_t at = bits % damaged.size();
      const char byte = static_cast<char>(bits >> 40);
      const char sign = "[]{}:,#'\"*&!|>-?%@`\n\t ~0.e"[(bits >> 48) % 28];
      if (bits >> 62 == 0) damaged[at] = byte;
      if (bits >> 62 == 1) damaged.insert(at, 1, sign);
      if (bits >> 62 == 2) damaged.erase(at, 1 + (bits >> 32) % 20);
      if (bits >> 62 == 3) damaged.insert(at, damaged.substr(bits % 97, (bits >> 32) % 50));
    }
    try {
      parse_run_config(damaged, "damaged", {});
      ++accepted;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kConfiguration);
      EXPECT_TRUE(is_valid_utf8(error.what())) << error.what();
    }
  }
  EXPECT_GT(accepted, 0);  // a digit more in a number, a letter less in a path
}

TEST(RunConfig, LengthsInTokensAreRoundedUpToSteps) {
  const RunConfig config = with({"--train.steps=null", "--train.tokens=131073000",
                                 "--schedule.warmup=131073 tokens", "--schedule.decay=2.5%"});
  EXPECT_EQ(config.tokens_per_step(), 131072);
  EXPECT_EQ(config.total_steps(), 1001);
  EXPECT_EQ(config.warmup_steps(), 2);
  EXPECT_EQ(config.decay_steps(), 25);
  EXPECT_EQ(with({"--schedule.warmup=131072 tokens"}).warmup_steps(), 1);
  EXPECT_EQ(with({"--schedule.decay=7"}).decay_steps(), 7);
}

TEST(RunConfig, ChangesAreListedByKeyWithWhatAResumeSaysToThem) {
  EXPECT_TRUE(config_changes(with({}), with({})).empty());
  const auto changes =
      config_changes(with({}), with({"--attention.window=512", "--log.every=5",
                                     "--data.sources=[{path: other}]", "--train.micro_batch=2"}));
  ASSERT_EQ(changes.size(), 4u);
  EXPECT_EQ(changes[0].key, "attention.window");
  EXPECT_EQ(changes[0].before, "1024");
  EXPECT_EQ(changes[0].after, "512");
  EXPECT_TRUE(changes[0].alters_training);
  EXPECT_EQ(changes[1].key, "data.sources");
  EXPECT_TRUE(changes[1].alters_training);
  EXPECT_EQ(changes[2].key, "train.micro_batch");
  EXPECT_FALSE(changes[2].alters_training);
  EXPECT_EQ(changes[3].key, "log.every");
  EXPECT_FALSE(changes[3].alters_training);
}

TEST(RunConfig, WhatFarSamplingIsWhereItIsOffIsNoChange) {
  const RunConfig off = with({"--attention.far_sampling={enabled: false, minimum: 0.5}"});
  EXPECT_TRUE(config_changes(with({}), off).empty());
  const RunConfig on = with({"--attention.far_sampling={enabled: true}"});
  const RunConfig more = with({"--attention.far_sampling={enabled: true, minimum: 0.5}"});
  for (const auto& changes : {config_changes(off, on), config_changes(on, more)}) {
    ASSERT_EQ(changes.size(), 1u);
    EXPECT_EQ(changes[0].key, "attention.far_sampling");
    EXPECT_TRUE(changes[0].alters_training);
  }
}

TEST(RunConfig, SpeedLoggingAndCheckpointKeysMayChangeOnResumeAndOthersNot) {
  std::vector<std::string> free, refused;
  for (const ConfigChange& change : config_changes(with({}), with(kEveryKey))) {
    (change.alters_training ? refused : free).push_back(change.key);
  }
  EXPECT_THAT(
      free,
      ElementsAre("run.folder", "attention.backend", "data.validation", "train.micro_batch",
                  "train.recompute", "validation.every", "validation.batches", "checkpoint.every",
                  "checkpoint.keep_last", "checkpoint.keep_every", "checkpoint.export_at_end",
                  "parallel.shard", "parallel.timeout_first", "parallel.timeout", "log.every",
                  "log.routing_every", "log.tensorboard", "log.profile", "preempt.signals",
                  "numerics.max_skips_in_a_row", "numerics.deterministic"));
  EXPECT_EQ(free.size() + refused.size(),
            kEveryKey.size() - 2);  // attention.mode is as before, far_sampling off
}

TEST(RunConfig, TheHashBelongsToTheValues) {
  EXPECT_EQ(hash_run_config(with({"--attention.window=1K"})), hash_run_config(with({})));
  EXPECT_NE(hash_run_config(with({"--attention.window=1025"})), hash_run_config(with({})));
  EXPECT_NE(hash_run_config(with({"--log.every=2"})), hash_run_config(with({})));
}

TEST(RunConfig, ReadsFiles) {
  const TemporaryFolder folder;
  write_file(folder.file("run.yaml"), kLeast);
  EXPECT_EQ(read_run_config(folder.file("run.yaml"), {"--run.seed=1"}), with({"--run.seed=1"}));
  EXPECT_THAT(
      sentence_of(ExitCode::kConfiguration, [&] { read_run_config(folder.file("none.yaml"), {}); }),
      HasSubstr("none.yaml' cannot be opened"));
}

}  // namespace
}  // namespace swiattn
