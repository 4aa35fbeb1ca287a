#include "data/tokenizer.h"

#include <filesystem>

#include "base/file_system.h"
#include "base/json.h"
#include "data/bpe_tokenizer.h"
#include "data/sentencepiece_tokenizer.h"

namespace swiattn {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargestFile = 256ULL << 20;

Json read_json(const std::string& path) {
  return read_json_file(path, ExitCode::kData, kLargestFile);
}

bool is_converted_sentencepiece(const Json& tokenizer) {
  const Json::json_pointer key("/model/byte_fallback");
  return tokenizer.contains(key) && tokenizer[key] == true;
}

std::unique_ptr<Tokenizer> open_bpe(const std::string& name, const std::string& path,
                                    const Json& json) {
  return std::make_unique<BpeTokenizer>(name, read_bpe_vocabulary(json, path));
}

std::unique_ptr<Tokenizer> open_sentencepiece(const std::string& name, const std::string& path) {
  const std::string model = read_file(path, ExitCode::kData, kLargestFile);
  return std::make_unique<SentencepieceTokenizer>(name, model, path);
}

std::unique_ptr<Tokenizer> open_folder(const std::string& name, const std::string& folder) {
  const std::string json_path = folder + "/tokenizer.json";
  const std::string model_path = folder + "/tokenizer.model";
  const bool has_model = file_exists(model_path);
  if (file_exists(json_path)) {
    const Json json = read_json(json_path);
    if (!(has_model && is_converted_sentencepiece(json))) return open_bpe(name, json_path, json);
  }
  if (has_model) return open_sentencepiece(name, model_path);
  fail(ExitCode::kData, "{} holds neither tokenizer.json nor tokenizer.model.", folder);
}

// The eos token by its text: "eos_token" is the text or an object with it.
std::optional<int32_t> eos_by_text(const Tokenizer& tokenizer, const std::string& path) {
  if (!file_exists(path)) return std::nullopt;
  const Json json = read_json(path);
  const JsonCursor file(json, path, ExitCode::kData);
  if (!file.has("eos_token")) return std::nullopt;
  const JsonCursor eos = file["eos_token"];
  const auto id = tokenizer.token_id((eos.is_object() ? eos["content"] : eos).string());
  if (!id) eos.refuse("a token of the vocabulary");
  return id;
}

// The eos token by its id: "eos_token_id" is the id or a list that begins with it.
std::optional<int32_t> eos_by_id(const Tokenizer& tokenizer, const std::string& path) {
  if (!file_exists(path)) return std::nullopt;
  const Json json = read_json(path);
  const JsonCursor file(json, path, ExitCode::kData);
  if (!file.has("eos_token_id")) return std::nullopt;
  const JsonCursor eos = file["eos_token_id"];
  const JsonCursor id = eos.is_array() ? eos.at(0) : eos;
  return static_cast<int32_t>(id.integer(0, tokenizer.vocab_size() - 1));
}

std::optional<int32_t> eos_of_folder(const Tokenizer& tokenizer, const std::string& folder) {
  std::optional<int32_t> id = eos_by_text(tokenizer, folder + "/tokenizer_config.json");
  if (!id) id = eos_by_id(tokenizer, folder + "/config.json");
  if (!id) id = eos_by_id(tokenizer, folder + "/generation_config.json");
  if (!id) id = eos_by_text(tokenizer, folder + "/special_tokens_map.json");
  return id;
}

}  // namespace

std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path) {
  if (path.empty()) fail(ExitCode::kData, "The tokenizer's path is empty.");
  const fs::path absolute = fs::absolute(path).lexically_normal();
  const bool is_folder = folder_exists(path);
  // A trailing slash leaves an empty last name.
  const fs::path named = absolute.has_filename() ? absolute : absolute.parent_path();
  const std::string name = named.filename().string();
  std::unique_ptr<Tokenizer> tokenizer;
  if (is_folder) {
    tokenizer = open_folder(name, path);
  } else if (!file_exists(path)) {
    fail(ExitCode::kData, "The tokenizer {} does not exist.", path);
  } else if (absolute.extension() == ".json") {
    tokenizer = open_bpe(name, path, read_json(path));
  } else if (absolute.extension() == ".model") {
    tokenizer = open_sentencepiece(name, path);
  } else {
    fail(ExitCode::kData, "The tokenizer {} is neither a folder nor a .json or .model file.", path);
  }
  const std::string folder = (is_folder ? named : named.parent_path()).string();
  if (const auto eos = eos_of_folder(*tokenizer, folder)) tokenizer->set_eos_id(eos);
  return tokenizer;
}

}  // namespace swiattn
