// What a configuration says: defaults, values, what is printed, changes.
#include "trainer/run_config.h"

#include "base/counter_random.h"
#include "base/file_system.h"
#include "base/utf8.h"
#include "tests/base/expect_error.h"
#include "tests/base/temporary_folder.h"
#include "tests/trainer/least_config.h"

namespace swiattn {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

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

TEST(RunConfig, JsonHasTheSameKeysAndTypedValues) {
  RunConfig config = with({});
  config.run.folder = "123";
  const nlohmann::ordered_json json = run_config_json(config);
  EXPECT_EQ(json["run"], (nlohmann::ordered_json{{"folder", "123"}, {"seed", 1234}}));
  EXPECT_TRUE(json["model"]["architecture"].is_null());
  EXPECT_EQ(json["attention"]["mask_documents"], true);
  EXPECT_EQ(json["attention"]["far_sampling"]["scale"], 0.5);
  EXPECT_EQ(json["attention"]["full_layers"], nlohmann::ordered_json::array());
  EXPECT_EQ(json["data"]["sources"][0]["path"], "tokens");
  EXPECT_EQ(json["optimizer"]["eps"], 1e-8);
  EXPECT_EQ(json["schedule"]["decay"], "10%");
  for (const Json& section : Json::parse(json.dump())) EXPECT_FALSE(section.empty());
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
