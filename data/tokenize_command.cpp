#include "data/tokenize_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "base/json.h"
#include "base/log.h"
#include "data/tokenize.h"

namespace swiattn {
namespace {

struct Options {
  TokenizeOptions tokenize;
  bool json = false;
};

void print(const TokenizeOptions& options, const TokenizeResult& result, bool as_json) {
  const double megabytes_per_second = static_cast<double>(result.bytes) / 1e6 / result.seconds;
  if (as_json) {
    const Json json = {{"output", options.output},
                       {"documents", result.documents},
                       {"tokens", result.tokens},
                       {"bytes", result.bytes},
                       {"seconds", result.seconds},
                       {"megabytes_per_second", megabytes_per_second},
                       {"tokenizer", result.tokenizer_name},
                       {"tokenizer_hash", result.tokenizer_hash},
                       {"vocab_size", result.vocab_size},
                       {"eos_id", result.eos_id}};
    fmt::print("{}\n", dump_json(json));
  } else {
    fmt::print("{}: {} documents, {} tokens from {:.1f} MB in {:.1f} s ({:.1f} MB/s).\n",
               options.output, result.documents, result.tokens,
               static_cast<double>(result.bytes) / 1e6, result.seconds, megabytes_per_second);
  }
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  TokenizeOptions& tokenize_options = options->tokenize;
  CLI::App* command = app.add_subcommand("tokenize", "Turn text into a token shard");
  command
      ->add_option("INPUT", tokenize_options.inputs,
                   "Text: .txt (a document each), .jsonl (a document a line), both also .gz or "
                   ".zst; a folder of them; - for standard input")
      ->required();
  command
      ->add_option("--tokenizer", tokenize_options.tokenizer,
                   "The model's tokenizer: a Hugging Face folder, a tokenizer.json or a "
                   "sentencepiece .model")
      ->required();
  command
      ->add_option("--output", tokenize_options.output,
                   "PREFIX of the shard: writes PREFIX.bin, PREFIX.idx and PREFIX.json")
      ->check([](const std::string& prefix) {
        return prefix.empty() || prefix.ends_with('/') ? "it has to end in a name" : "";
      })
      ->required();
  command
      ->add_option("--workers", tokenize_options.workers,
                   "Threads that tokenize (default: one for each core)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--key", tokenize_options.key, "What a line of .jsonl calls its text")
      ->capture_default_str();
  command
      ->add_option_function<std::string>(
          "--stdin-format",
          [options](const std::string& format) {
            options->tokenize.standard_input =
                format == "jsonl" ? TextFormat::kJsonLines : TextFormat::kText;
          },
          "What standard input is, text being one document (default: text)")
      ->check(CLI::IsMember({"text", "jsonl"}));
  command
      ->add_option_function<std::string>(
          "--invalid-utf8",
          [options](const std::string& choice) {
            options->tokenize.replace_invalid_utf8 = choice == "replace";
          },
          "What to do with bytes that are not UTF-8: replace puts U+FFFD there (default: refuse)")
      ->check(CLI::IsMember({"refuse", "replace"}));
  command->add_option("--eos", tokenize_options.eos,
                      "The token that ends a document, such as '<|endoftext|>' (default: what the "
                      "tokenizer's folder says)");
  command->add_flag("--json", options->json, "Print the result as one JSON object");
  command->callback([options] {
    const auto log = make_console_log(0);
    const TokenizeResult result = tokenize(options->tokenize, *log);
    print(options->tokenize, result, options->json);
  });
}

}  // namespace swiattn
