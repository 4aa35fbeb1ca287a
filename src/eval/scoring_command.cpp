#include "eval/scoring_command.h"

#include <c10/core/InferenceMode.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "base/file_system.h"
#include "base/json.h"
#include "base/quantity.h"
#include "checkpoint/hf_folder.h"
#include "eval/documents.h"
#include "eval/evaluation_model.h"
#include "eval/perplexity.h"
#include "parallel/device.h"

namespace swiattn {
namespace {

using OrderedJson = nlohmann::ordered_json;

struct ScoringOptions {
  std::string model;
  AttentionOverride attention;
  std::string window;
  DocumentSource documents;
  std::string sequence_length = "4K";
  std::string stride;
  std::string limit;
  std::string per_token;
  std::string device;
  bool json = false;
};

void add_flags(CLI::App& command, ScoringOptions& options) {
  command.add_option("--model", options.model, "HF folder, or checkpoint folder of a run")
      ->required();
  auto* tokens = command.add_option("--tokens", options.documents.tokens, "Token shard to read");
  auto* texts = command.add_option("--text", options.documents.texts,
                                   "Text files or folders to read, a document a file");
  tokens->excludes(texts);
  command.add_option("--tokenizer", options.documents.tokenizer,
                     "Of --text; default: the one in the model's folder");
  command.add_option(
      "--sequence-length", options.sequence_length,
      "Longest context, in tokens, K being 1,024; longer documents are cut (default 4K)");
  command.add_option("--stride", options.stride,
                     "New tokens a cut predicts, the rest being context (default: the length)");
  command.add_option("--limit", options.limit,
                     "Stop after so many tokens, K being 1,000 (default: read all)");
  command
      .add_option("--mode", options.attention.mode,
                  "Attend in this mode instead of the model's own")
      ->check(CLI::IsMember({"full", "window", "static", "switch"}));
  command.add_option("--window", options.window, "Window instead of the model's own");
  command
      .add_option("--device", options.device, "Where to compute; default: a GPU if there is one")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  command.add_flag("--json", options.json, "Print one JSON object");
}

OrderedJson number_or_null(double value) {
  return std::isfinite(value) ? OrderedJson(value) : OrderedJson(nullptr);
}

std::string json_line(const TokenScore& score) {
  OrderedJson line;
  line["document"] = score.document;
  line["position"] = score.position;
  line["token"] = score.token;
  line["nll"] = number_or_null(score.nll);
  line["route"] = score.route;
  return dump_json(line) + "\n";
}

// The output is written beside its name and renamed: a device would be replaced, and an input lost.
// Every file of a folder that is read counts as one.
void check_output(const std::string& path, const ScoringOptions& options) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  if (!fs::is_regular_file(path, ignored)) {
    fail(ExitCode::kConfiguration, "--per-token {}: it exists and is no regular file.", path);
  }
  const DocumentSource& documents = options.documents;
  std::vector<std::string> read = documents.texts;
  read.push_back(options.model);
  read.push_back(documents.tokenizer);
  std::string shard = documents.tokens;
  if (shard.ends_with(".bin")) shard.resize(shard.size() - 4);
  for (const char* ending : {"", ".bin", ".idx", ".json"}) read.push_back(shard + ending);
  const fs::path folder = fs::absolute(path, ignored).parent_path();
  for (const std::string& input : read) {
    if (fs::equivalent(path, input, ignored) || fs::equivalent(folder, input, ignored)) {
      fail(ExitCode::kConfiguration, "--per-token {}: it is an input as well.", path);
    }
  }
}

PerplexityResult score(ScoringOptions& options, Branches branches) {
  const c10::InferenceMode no_autograd;
  if (options.documents.tokens.empty() && options.documents.texts.empty()) {
    fail(ExitCode::kConfiguration, "Nothing to read: give --tokens PREFIX or --text FILE.");
  }
  const auto at_least_1 = [](const std::string& text, QuantityBase base, const char* name) {
    const int64_t value = parse_quantity(text, base, name);
    if (value < 1) fail(ExitCode::kConfiguration, "{} must be at least 1.", name);
    return value;
  };
  const auto length = [&](const std::string& text, const char* name) {
    return at_least_1(text, QuantityBase::kBinary, name);
  };
  PerplexityOptions perplexity;
  perplexity.branches = branches;
  perplexity.sequence_length = length(options.sequence_length, "--sequence-length");
  perplexity.stride =
      options.stride.empty() ? perplexity.sequence_length : length(options.stride, "--stride");
  if (perplexity.stride > perplexity.sequence_length) {
    fail(ExitCode::kConfiguration,
         "--stride {} is longer than --sequence-length {}, so that tokens would be left out.",
         perplexity.stride, perplexity.sequence_length);
  }
  if (!options.limit.empty()) {  // a count of tokens, not a length: 10K is 10000
    options.documents.limit = at_least_1(options.limit, QuantityBase::kThousand, "--limit");
  }
  if (!options.window.empty()) options.attention.window = length(options.window, "--window");
  if (options.documents.tokenizer.empty()) {
    options.documents.tokenizer = companions_of(options.model);
  }

  if (!options.per_token.empty()) check_output(options.per_token, options);
  const EvaluationModel model(options.model, options.attention, choose_device(options.device, 0));
  FileSystem& files = FileSystem::posix_of_data();
  const std::string temporary = options.per_token + ".tmp";
  std::unique_ptr<WritableFile> per_token;
  if (!options.per_token.empty()) {
    per_token = files.create(temporary);
    perplexity.per_token = [&](const TokenScore& token) { per_token->append(json_line(token)); };
  }
  PerplexityMeter meter(model.model(), perplexity);
  PerplexityResult result;
  try {
    for_each_document(options.documents,
                      [&](std::span<const int32_t> document) { meter.add(document); });
    result = meter.result();
    if (result.tokens == 0) {
      fail(ExitCode::kData,
           "There was no token to predict: every document has fewer than two tokens.");
    }
  } catch (...) {
    if (per_token) files.remove_file(temporary);
    throw;
  }
  if (per_token) {
    per_token->sync();
    per_token->close();
    files.rename(temporary, options.per_token);
  }
  return result;
}

OrderedJson to_json(const PerplexityResult& result) {
  OrderedJson json;
  json["documents"] = result.documents;
  json["tokens"] = result.tokens;
  json["nll"] = number_or_null(result.nll);
  json["perplexity"] = number_or_null(std::exp(result.nll));
  json["full_ratio"] = number_or_null(result.full_ratio);
  json["full_ratio_far"] = number_or_null(result.full_ratio_far);
  return json;
}

std::string percent(double ratio) {
  return std::isfinite(ratio) ? fmt::format("{:6.2f} %", 100 * ratio) : "       -";
}

void print_perplexity(const PerplexityResult& result, bool json) {
  if (json) {
    std::cout << dump_json(to_json(result)) << "\n";
    return;
  }
  fmt::print(
      "{} tokens of {} documents: {:.4f} nats a token, perplexity {:.3f}\n"
      "full attention: {} of all tokens, {} of those that see more than the window\n",
      result.tokens, result.documents, result.nll, std::exp(result.nll), percent(result.full_ratio),
      percent(result.full_ratio_far));
}

void print_routing(const PerplexityResult& result, bool json) {
  OrderedJson object = to_json(result);
  object["layers"] = OrderedJson::array();
  if (!json)
    fmt::print("layer  full       beyond the window  logit mean  logit std  disagreement\n");
  for (size_t i = 0; i < result.layers.size(); ++i) {
    const LayerRouting& layer = result.layers[i];
    if (json) {
      object["layers"].push_back({{"layer", i + 1},
                                  {"full_ratio", number_or_null(layer.full_ratio)},
                                  {"full_ratio_far", number_or_null(layer.full_ratio_far)},
                                  {"logit_mean", number_or_null(layer.logit_mean)},
                                  {"logit_std", number_or_null(layer.logit_std)},
                                  {"disagreement_mean", number_or_null(layer.disagreement_mean)}});
      continue;
    }
    const bool routed = std::isfinite(layer.logit_mean);
    fmt::print("{:5}  {}   {}           {}\n", i + 1, percent(layer.full_ratio),
               percent(layer.full_ratio_far),
               routed ? fmt::format("{:10.4f} {:10.4f}  {:12.3e}", layer.logit_mean,
                                    layer.logit_std, layer.disagreement_mean)
                      : "no router");
  }
  if (json) {
    std::cout << dump_json(object) << "\n";
  } else {
    print_perplexity(result, false);
  }
}

}  // namespace

void add_perplexity_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("perplexity", "The loss of a model on documents");
  const auto options = std::make_shared<ScoringOptions>();
  add_flags(*command, *options);
  command->add_option("--per-token", options->per_token,
                      "Write one JSON object a predicted token to this file");
  command->callback(
      [options] { print_perplexity(score(*options, Branches::kTaken), options->json); });
}

void add_routing_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("routing", "What the routers of a hybrid do, layer by layer");
  const auto options = std::make_shared<ScoringOptions>();
  add_flags(*command, *options);
  command->callback([options] { print_routing(score(*options, Branches::kBoth), options->json); });
}

}  // namespace swiattn
