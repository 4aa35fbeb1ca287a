#include "data/verify_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "data/shard_verification.h"
#include "data/tokenizer.h"

namespace swiattn {
namespace {

struct Options {
  std::string path;
  std::string tokenizer;
  std::optional<int64_t> vocab_size;
  std::optional<int32_t> eos_id;
  bool json = false;
};

void print_report(const Options& options, const ShardVerification& result) {
  if (options.json) {
    const nlohmann::ordered_json json = {{"path", options.path},
                                         {"ok", result.problems.empty()},
                                         {"checked", result.checked},
                                         {"problems", result.problems}};
    fmt::print("{}\n", dump_json(json, 2));
    return;
  }
  for (const std::string& line : result.checked) fmt::print("checked {}\n", line);
  if (result.problems.empty()) fmt::print("{}: all right\n", options.path);
}

ShardVerification verification(const Options& options) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) tokenizer = open_tokenizer(options.tokenizer);
  std::unique_ptr<TokenSource> source;
  try {
    source = open_token_source(options.path, {.eos_id = options.eos_id});
  } catch (const Error& error) {
    return {.checked = {}, .problems = {error.what()}};
  }
  return verify_shard(*source, tokenizer.get(), options.vocab_size);
}

void verify(const Options& options) {
  const ShardVerification result = verification(options);
  print_report(options, result);
  if (!result.problems.empty()) {
    fail(ExitCode::kData, "{}", fmt::join(result.problems, "\n"));
  }
}

}  // namespace

void add_verify_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("verify", "Check all of a token shard");
  command
      ->add_option("PREFIX", options->path, "PREFIX of PREFIX.bin and PREFIX.idx, or a .bin file")
      ->required();
  command->add_option("--tokenizer", options->tokenizer, "Tokenizer that the tokens should be of");
  command->add_option("--vocab-size", options->vocab_size, "Every id must be below this")
      ->check(CLI::Range(1, std::numeric_limits<int>::max()));
  command->add_option("--eos-id", options->eos_id,
                      "Token that ends a document of a shard without index");
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { verify(*options); });
}

}  // namespace swiattn
