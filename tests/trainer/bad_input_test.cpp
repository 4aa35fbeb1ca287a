// Whatever is wrong with the input of swiattn-train ends in one sentence that names it and in the
// exit code of its kind, on one rank and on two, and leaves nothing half-written.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>

#include "../base/temporary_folder.h"
#include "../model/small_models.h"
#include "base/file_system.h"
#include "small_run.h"

namespace swiattn {
namespace {

struct Case {
  std::string name;
  int code;
  std::vector<std::string> words;  // that the sentence must contain
  std::string flags;
  std::function<void(const std::string& root)> damage;
};

void overwrite(const std::string& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

void edit(const std::string& path, const std::string& from, const std::string& to) {
  std::string text = read_file(path, ExitCode::kData);
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << path;
  overwrite(path, text.replace(at, from.size(), to));
}

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto flag = [&](const char* name, int code, std::vector<std::string> words,
                        const char* flags) {
    all.push_back({name, code, std::move(words), flags, nullptr});
  };
  const auto file = [&](const char* name, int code, std::vector<std::string> words,
                        std::function<void(const std::string&)> damage) {
    all.push_back({name, code, std::move(words), "", std::move(damage)});
  };
  flag("unknown_key", 2, {"attention.windw", "window"}, "--attention.windw=3");
  flag("wrong_type", 2, {"train.steps"}, "--train.steps=many");
  flag("wrong_enum", 2, {"attention.mode", "switch"}, "--attention.mode=sparse");
  flag("unknown_argument", 2, {"--steps"}, "--steps 5");
  flag("batch_does_not_divide", 2, {"global_batch"},
       "--train.global_batch=6 --train.micro_batch=4");
  flag("warmup_longer_than_run", 2, {"warmup"}, "--schedule.warmup=500");
  flag("full_layer_out_of_range", 2, {"full_layers", "9"},
       "--attention.mode=static --attention.full_layers=[9]");
  flag("freeze_matches_nothing", 2, {"train.freeze"}, "--train.freeze=[nothing.*]");
  flag("freeze_everything", 2, {"train.freeze"}, "'--train.freeze=[\"*\"]'");
  flag("no_gpu_here", 2, {"This host has no GPU that the program can use; give --device cpu."},
       "--device cuda");
  flag("no_fused_here", 2, {"'fused' needs a GPU"}, "--attention.backend=fused");
  flag("value_without_equals_sign", 2, {"--train.recompute=VALUE"}, "--train.recompute layer");
  flag("missing_model", 4, {"nowhere"}, "--model.init_from=/nowhere");
  flag("missing_shard", 3, {"/nowhere.bin"}, "'--data.sources=[{path: /nowhere.bin, eos_id: 1}]'");
  flag("missing_checkpoint", 4, {"/nowhere"}, "--resume /nowhere");
  flag("sequence_longer_than_shard", 3, {"tokens.bin"}, "--data.sequence_length=1M");
  all.push_back({"run_folder_is_a_file",
                 2,
                 {"occupied"},
                 "--run.folder=ROOT/occupied",
                 [](const std::string& root) { overwrite(root + "/occupied", "x"); }});
  file("token_outside_vocabulary", 3, {"tokens.bin", "61"}, [](const std::string& root) {
    write_flat_shard(root + "/tokens.bin", std::vector<int32_t>(3000, 61));
  });
  file("odd_shard_length", 3, {"tokens.bin"},
       [](const std::string& root) { overwrite(root + "/tokens.bin", "123"); });
  file("config_is_no_yaml", 2, {"run.yaml"},
       [](const std::string& root) { overwrite(root + "/run.yaml", "run: {folder: ["); });
  file("config_missing", 2, {"run.yaml"},
       [](const std::string& root) { std::filesystem::remove(root + "/run.yaml"); });
  file("model_config_is_no_json", 4, {"config.json"},
       [](const std::string& root) { overwrite(root + "/base/config.json", "{"); });
  file("unknown_architecture", 4, {"config.json", "mamba"}, [](const std::string& root) {
    edit(root + "/base/config.json", "\"model_type\": \"llama\"", "\"model_type\": \"mamba\"");
  });
  file("safetensors_cut_short", 4, {"model.safetensors"}, [](const std::string& root) {
    const std::string path = root + "/base/model.safetensors";
    std::filesystem::resize_file(path, std::filesystem::file_size(path) - 8);
  });
  file("tensor_of_another_shape", 4, {"model.embed_tokens.weight"}, [](const std::string& root) {
    edit(root + "/base/config.json", "\"vocab_size\": 61", "\"vocab_size\": 67");
  });
  file("tensor_missing", 4, {"model.layers.3"}, [](const std::string& root) {
    edit(root + "/base/config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4");
  });
  file("weight_not_finite", 4, {"model.safetensors", "finite"}, [](const std::string& root) {
    std::fstream stream(root + "/base/model.safetensors",
                        std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(-4, std::ios::end);
    stream.write("\x00\x00\xc0\x7f", 4);
  });
  return all;
}

// A model folder, a shard and run.yaml in ROOT.
void write_small_run(const std::string& root) {
  const ModelConfig config = small_config(Architecture::kLlama);
  write_model_folder(root + "/base", config, random_weights(config, false, 5));
  write_flat_shard(root + "/tokens.bin", random_documents(3000, config.vocab_size, 6));
  overwrite(
      root + "/run.yaml",
      fmt::format("run: {{folder: {0}/run}}\n"
                  "model: {{init_from: {0}/base, compute: float32}}\n"
                  "attention: {{window: 8}}\n"
                  "data: {{sequence_length: 32, sources: [{{path: {0}/tokens.bin, eos_id: 60}}]}}\n"
                  "train: {{steps: 4, global_batch: 4}}\n"
                  "schedule: {{warmup: 1}}\n",
                  root));
}

class BadInputTest : public testing::TestWithParam<std::tuple<Case, int>> {};

TEST_P(BadInputTest, EndsInASentenceAndTheExitCodeOfItsKind) {
  const auto& [c, ranks] = GetParam();
  const TemporaryFolder folder;
  const std::string root = folder.path();
  write_small_run(root);
  if (c.damage) c.damage(root);
  std::string flags = c.flags;
  if (const size_t at = flags.find("ROOT"); at != std::string::npos) flags.replace(at, 4, root);
  const std::string device = flags.find("--device") == std::string::npos ? "--device cpu" : "";
  const std::string launcher =
      ranks == 1 ? "" : fmt::format("mpirun --allow-run-as-root --oversubscribe -np {} ", ranks);
  const ProgramResult result = run_command(
      fmt::format("CUDA_VISIBLE_DEVICES= timeout 60 {}{}/swiattn-train --config {}/run.yaml {} {}",
                  launcher, SWIATTN_PROGRAMS, root, device, flags));
  EXPECT_EQ(result.code, c.code) << result.output;
  for (const std::string& word : c.words) {
    EXPECT_NE(result.output.find(word), std::string::npos) << word << " in\n" << result.output;
  }
  EXPECT_EQ(result.output.find("Internal error"), std::string::npos) << result.output;
  // A sentence is said once, however many ranks find the same.
  std::set<std::string> sentences;
  std::istringstream lines(result.output);
  for (std::string line; std::getline(lines, line);) {
    const size_t at = line.find("error: ");
    if (at == std::string::npos) continue;
    line = line.substr(line.find("] ") == std::string::npos ? at + 7 : line.find("] ") + 2);
    EXPECT_TRUE(sentences.insert(line).second) << result.output;
  }
  EXPECT_FALSE(sentences.empty()) << result.output;
  EXPECT_FALSE(folder_exists(root + "/run/checkpoints"));
  EXPECT_FALSE(folder_exists(root + "/run/hybrid"));
}

INSTANTIATE_TEST_SUITE_P(All, BadInputTest,
                         testing::Combine(testing::ValuesIn(cases()), testing::Values(1, 2)),
                         [](const auto& info) {
                           return fmt::format("{}_{}", std::get<0>(info.param).name,
                                              std::get<1>(info.param) == 1 ? "alone" : "two_ranks");
                         });

// Two ranks that were started with different flags, as with a file that differs between hosts.
TEST(RanksThatDiffer, AreRefusedByTheKeyInWhichTheyDo) {
  const TemporaryFolder folder;
  const std::string& root = folder.path();
  write_small_run(root);
  const std::string program =
      fmt::format("{}/swiattn-train --device cpu --config {}/run.yaml", SWIATTN_PROGRAMS, root);
  const ProgramResult result = run_command(
      fmt::format("timeout 60 mpirun --allow-run-as-root --oversubscribe -np 1 {0} : -np 1 {0} "
                  "--optimizer.learning_rate=3.0e-3",
                  program));
  EXPECT_EQ(result.code, 2) << result.output;
  EXPECT_NE(result.output.find("Rank 1: This rank has optimizer.learning_rate 0.003 where rank 0 "
                               "has 0.0001"),
            std::string::npos)
      << result.output;
  EXPECT_FALSE(folder_exists(root + "/run"));
}

// Two hosts, here two folders, of which one has a shorter shard.
TEST(RanksThatDiffer, AreRefusedByTheShardInWhichTheyDo) {
  const TemporaryFolder folder;
  const std::string& root = folder.path();
  write_small_run(root);
  const auto write_host = [&](const std::string& host, int64_t tokens, int64_t held_out) {
    std::filesystem::create_directory(root + "/" + host);
    write_flat_shard(root + "/" + host + "/tokens.bin", random_documents(tokens, 61, 6));
    write_flat_shard(root + "/" + host + "/held.bin", random_documents(held_out, 61, 7));
  };
  write_host("one", 3000, 900);
  write_host("two", 3000, 700);
  write_host("three", 2000, 900);
  const std::string program = fmt::format(
      "{}/swiattn-train --device cpu --config {}/run.yaml --data.sequence_length=32 "
      "'--data.sources=[{{path: tokens.bin, eos_id: 60}}]' "
      "'--data.validation=[{{name: held, path: held.bin, eos_id: 60}}]'",
      SWIATTN_PROGRAMS, root);
  for (const auto& [host, words] :
       {std::pair("two",
                  "Rank 1: This rank finds 21 samples of 32 tokens in held.bin where rank 0 finds "
                  "28: give all hosts the same shards."),
        std::pair("three",
                  "Rank 1: This rank finds 62 samples of 32 tokens in tokens.bin where rank 0 "
                  "finds 93: give all hosts the same shards.")}) {
    const ProgramResult result = run_command(
        fmt::format("timeout 60 mpirun --allow-run-as-root --oversubscribe -np 1 -wdir {1}/one {0} "
                    ": -np 1 -wdir {1}/{2} {0}",
                    program, root, host));
    EXPECT_EQ(result.code, 3) << result.output;
    EXPECT_NE(result.output.find(words), std::string::npos) << result.output;
    EXPECT_FALSE(folder_exists(root + "/run/checkpoints"));
  }
}

// --dry-run on a machine without a GPU.
class DryRunTest : public testing::Test {
 protected:
  DryRunTest() {
    const ModelConfig config = small_config(Architecture::kLlama);
    write_model_folder(folder_.file("base"), config, random_weights(config, false, 5));
    write_flat_shard(folder_.file("tokens.bin"), random_documents(3000, config.vocab_size, 6));
    overwrite(folder_.file("run.yaml"),
              fmt::format("run: {{folder: {0}/run}}\n"
                          "model: {{init_from: {0}/base}}\n"
                          "attention: {{window: 8}}\n"
                          "data: {{sequence_length: 32,\n"
                          "       sources: [{{path: {0}/tokens.bin, eos_id: 60}}]}}\n"
                          "train: {{steps: 500, global_batch: 4}}\n",
                          folder_.path()));
  }

  ProgramResult dry_run(const std::string& flags) const {
    return run_command(
        fmt::format("CUDA_VISIBLE_DEVICES= {}/swiattn-train --config {} --dry-run {}",
                    SWIATTN_PROGRAMS, folder_.file("run.yaml"), flags));
  }

  TemporaryFolder folder_;
};

TEST_F(DryRunTest, RefusesADeviceThatIsNotThere) {
  const ProgramResult result = dry_run("--device cuda --model.init_from=/nowhere");
  EXPECT_EQ(result.code, 2);
  EXPECT_NE(result.output.find("has no GPU that the program can use"), std::string::npos)
      << result.output;
  EXPECT_FALSE(folder_exists(folder_.file("run")));
}

TEST_F(DryRunTest, CountsForTheRanksThatAreAskedFor) {
  const ProgramResult four = dry_run("--device cpu --ranks 4");
  EXPECT_EQ(four.code, 0) << four.output;
  EXPECT_NE(four.output.find("1 micro-batches of 1 on each of 4 ranks"), std::string::npos)
      << four.output;
  const ProgramResult three = dry_run("--device cpu --ranks 3");
  EXPECT_EQ(three.code, 2);
  EXPECT_NE(three.output.find("global_batch"), std::string::npos) << three.output;
}

TEST_F(DryRunTest, SaysHowOftenTheDataIsRead) {
  const std::string path = folder_.file("tokens.bin");
  const auto samples = (static_cast<int64_t>(std::filesystem::file_size(path)) / 2 - 1) / 32;
  const ProgramResult result = dry_run("--device cpu");
  const std::string expected = fmt::format("{}: {} samples of 32 tokens, read {:.3g} times", path,
                                           samples, 2000.0 / static_cast<double>(samples));
  EXPECT_NE(result.output.find(expected), std::string::npos) << expected << result.output;
}

TEST_F(DryRunTest, RefusesWhatNoDeviceCanDoOrTheOneAskedForCannot) {
  for (const char* flags : {"--attention.backend=fused --model.compute=float32",
                            "--attention.backend=fused --device cpu"}) {
    const ProgramResult result = dry_run(flags);
    EXPECT_EQ(result.code, 2) << flags;
    EXPECT_NE(result.output.find("'fused' needs a GPU and model.compute: bfloat16"),
              std::string::npos)
        << result.output;
  }
}

#ifdef SWIATTN_CUDA
TEST_F(DryRunTest, SaysWhatAGpuWouldDoWhereThereIsNone) {
  const auto expect_words = [](const ProgramResult& result, std::vector<std::string> words) {
    EXPECT_EQ(result.code, 0) << result.output;
    for (const std::string& word : words) {
      EXPECT_NE(result.output.find(word), std::string::npos) << word << " in\n" << result.output;
    }
  };
  const std::string here = "#   computes    on this machine, which has no GPU: ";
  const std::string there = "#   computes    on an H100 or H200: attention: ";
  expect_words(dry_run(""), {here + "1 rank on CPU, ", "attention: library (blockwise); determin",
                             there + "fused; not deterministic; CUDA graphs\n",
                             "#   graphs      CUDA graphs keep about "});
  expect_words(dry_run("--attention.backend=fused"),
               {here + "nothing. attention.backend: 'fused' needs a GPU", there + "fused; "});
  expect_words(dry_run("--attention.backend=library --numerics.deterministic=true"),
               {here + "1 rank on CPU, ", there + "library", "; deterministic; CUDA graphs\n"});
  // The CPU is what was asked for: nothing is said of a GPU.
  const ProgramResult on_cpu = dry_run("--device cpu");
  expect_words(on_cpu, {"#   computes    1 rank on CPU, "});
  EXPECT_EQ(on_cpu.output.find("GPU"), std::string::npos) << on_cpu.output;
}
#endif

}  // namespace
}  // namespace swiattn
