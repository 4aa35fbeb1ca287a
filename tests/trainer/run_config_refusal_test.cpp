// What is no configuration, and the sentences that say so.
#include "tests/base/expect_error.h"
#include "tests/trainer/least_config.h"
#include "trainer/run_config.h"

namespace swiattn {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string refusal_with(const std::vector<std::string>& overrides) {
  return sentence_of(ExitCode::kConfiguration, [&] { with(overrides); });
}
std::string refusal_of(const std::string& text) {
  return sentence_of(ExitCode::kConfiguration, [&] { parse_run_config(text, "run.yaml", {}); });
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

}  // namespace
}  // namespace swiattn
