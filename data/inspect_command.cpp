#include "data/inspect_command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "data/token_source.h"
#include "data/tokenizer.h"

namespace swiattn {
namespace {

struct Options {
  std::string path;
  std::optional<int64_t> document;
  std::string tokenizer;
  std::optional<int32_t> eos_id;
  int64_t show = 64;
  bool json = false;
};

struct Lengths {
  int64_t shortest = 0, median = 0, p90 = 0, p99 = 0, longest = 0;
  double mean = 0;
};

struct Excerpt {
  int64_t number;
  TokenRange range;
  std::vector<int32_t> ids;  // the first ones
  std::optional<std::string> text;
};

Lengths lengths_of(const TokenSource& source) {
  std::vector<int64_t> lengths(static_cast<size_t>(source.documents()));
  for (size_t i = 0; i < lengths.size(); ++i) {
    lengths[i] = source.document(static_cast<int64_t>(i)).size();
  }
  if (lengths.empty()) return {};
  std::sort(lengths.begin(), lengths.end());
  const auto quantile = [&lengths](double part) {
    return lengths[static_cast<size_t>(
        std::llround(part * static_cast<double>(lengths.size() - 1)))];
  };
  const double sum = std::accumulate(lengths.begin(), lengths.end(), 0.0);
  return {lengths.front(), quantile(0.5),  quantile(0.9),
          quantile(0.99),  lengths.back(), sum / static_cast<double>(lengths.size())};
}

Excerpt read_excerpt(const TokenSource& source, const Options& options) {
  const int64_t number = *options.document;
  if (source.documents() == 0) fail(ExitCode::kData, "{}: has no documents.", source.name());
  if (number < 0 || number >= source.documents()) {
    fail(ExitCode::kData, "{}: there is no document {}; documents are numbered from 0 to {}.",
         source.name(), number, source.documents() - 1);
  }
  Excerpt excerpt{number, source.document(number), {}, std::nullopt};
  excerpt.ids.resize(static_cast<size_t>(std::min(excerpt.range.size(), options.show)));
  source.read(excerpt.range.begin, excerpt.ids);
  if (!options.tokenizer.empty()) {
    excerpt.text = open_tokenizer(options.tokenizer)->decode(excerpt.ids);
  }
  return excerpt;
}

void print_json(const TokenSource& source, const Lengths& lengths,
                const std::optional<Excerpt>& excerpt) {
  nlohmann::ordered_json json;
  json["path"] = source.name();
  json["format"] = source.format();
  json["token_type"] = token_type_name(source.token_type());
  json["documents"] = source.documents();
  json["tokens"] = source.tokens();
  json["document_tokens"] = {{"min", lengths.shortest},  {"mean", lengths.mean},
                             {"median", lengths.median}, {"p90", lengths.p90},
                             {"p99", lengths.p99},       {"max", lengths.longest}};
  json["side_file"] = nlohmann::ordered_json::parse(format_shard_info(source.info()));
  if (excerpt) {
    json["document"] = {{"number", excerpt->number},
                        {"begin", excerpt->range.begin},
                        {"tokens", excerpt->range.size()},
                        {"ids", excerpt->ids}};
    if (excerpt->text) json["document"]["text"] = *excerpt->text;
  }
  fmt::print("{}\n", dump_json(json, 2));  // a text cut inside a character is not UTF-8 there
}

void print_text(const TokenSource& source, const Lengths& lengths,
                const std::optional<Excerpt>& excerpt) {
  fmt::print("{}: {} shard, {} documents, {} tokens of type {}\n", source.name(), source.format(),
             source.documents(), source.tokens(), token_type_name(source.token_type()));
  fmt::print("tokens in a document: min {}, median {}, mean {:.1f}, 90% {}, 99% {}, max {}\n",
             lengths.shortest, lengths.median, lengths.mean, lengths.p90, lengths.p99,
             lengths.longest);
  const auto side_file = nlohmann::ordered_json::parse(format_shard_info(source.info()));
  fmt::print("side file: {}\n", side_file.is_null() ? "none" : dump_json(side_file));
  if (!excerpt) return;
  fmt::print("document {}: tokens {} to {}, {} tokens\n", excerpt->number, excerpt->range.begin,
             excerpt->range.end, excerpt->range.size());
  fmt::print("ids: {}{}\n", fmt::join(excerpt->ids, " "),
             static_cast<int64_t>(excerpt->ids.size()) < excerpt->range.size() ? " …" : "");
  if (excerpt->text) fmt::print("{}\n", *excerpt->text);
}

void inspect(const Options& options) {
  const std::unique_ptr<TokenSource> source =
      open_token_source(options.path, {.eos_id = options.eos_id});
  const Lengths lengths = lengths_of(*source);
  std::optional<Excerpt> excerpt;
  if (options.document) excerpt = read_excerpt(*source, options);
  (options.json ? print_json : print_text)(*source, lengths, excerpt);
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("inspect", "Say what a token shard holds");
  command
      ->add_option("PREFIX", options->path, "PREFIX of PREFIX.bin and PREFIX.idx, or a .bin file")
      ->required();
  command->add_option("--document", options->document, "Show the document of this number, from 0");
  command->add_option("--show", options->show, "How many tokens of the document to show")
      ->capture_default_str()
      ->check(CLI::Range(0, std::numeric_limits<int>::max()));
  command->add_option("--tokenizer", options->tokenizer, "Tokenizer to show the text with");
  command->add_option("--eos-id", options->eos_id,
                      "Token that ends a document of a shard without index");
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { inspect(*options); });
}

}  // namespace swiattn
