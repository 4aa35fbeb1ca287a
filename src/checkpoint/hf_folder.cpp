#include "checkpoint/hf_folder.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "base/file_system.h"
#include "base/json.h"
#include "base/yaml.h"
#include "checkpoint/tensor_conversion.h"

namespace swiattn {
namespace {

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

constexpr std::array kCompanions = {"LICENSE",
                                    "LICENSE.md",
                                    "LICENSE.txt",
                                    "NOTICE",
                                    "added_tokens.json",
                                    "chat_template.jinja",
                                    "chat_template.json",
                                    "generation_config.json",
                                    "merges.txt",
                                    "special_tokens_map.json",
                                    "spiece.model",
                                    "tekken.json",
                                    "tokenizer.json",
                                    "tokenizer.model",
                                    "tokenizer_config.json",
                                    "vocab.json"};

// A name that cannot lead out of the folder.
bool is_plain_base_name(const std::string& name) {
  return !name.empty() && name.find_first_of(std::string("/\\\0", 3)) == std::string::npos &&
         !name.starts_with('.') && name.ends_with(".safetensors");
}

std::map<std::string, std::string> read_weight_map(const std::string& path) {
  const Json document = read_json_file(path, ExitCode::kCheckpoint);
  const JsonCursor map = JsonCursor(document, path, ExitCode::kCheckpoint)["weight_map"];
  std::map<std::string, std::string> files;
  for (const std::string& tensor : map.keys()) {
    files[tensor] = map[tensor].string();
    if (!is_plain_base_name(files[tensor])) {
      map[tensor].refuse("the base name of a .safetensors file of this folder");
    }
  }
  return files;
}

void fail_without_weights(const std::string& path) {
  const bool pickled = file_exists(path + "/pytorch_model.bin") ||
                       file_exists(path + "/pytorch_model.bin.index.json");
  fail(ExitCode::kCheckpoint, "'{}' has neither {} nor {}.{}", path, kSingle, kIndex,
       pickled ? " It has a pytorch_model.bin: load it with transformers and save it again, which "
                 "writes safetensors."
               : " A model folder in the Hugging Face format is expected.");
}

void fail_without_config(const std::string& path) {
  const bool is_run = folder_exists(path + "/checkpoints");
  fail(ExitCode::kCheckpoint, "'{}' has no config.json. {}", path,
       is_run ? fmt::format("It is the folder of a run: give '{0}/hybrid', which is there when the "
                            "run has ended, or a folder in '{0}/checkpoints'.",
                            path)
              : "A model folder in the Hugging Face format is expected.");
}

}  // namespace

HfFolder::HfFolder(std::string path) : path_(std::move(path)) {
  if (!folder_exists(path_)) {
    fail(
        ExitCode::kCheckpoint,
        "'{}' is not a folder; a Hugging Face model folder on this machine is expected. Names on a "
        "hub are not fetched, and a relative path begins in the current folder.",
        path_);
  }
  try {
    config_ = read_model_config(path_ + "/config.json");
  } catch (const FileError& error) {
    if (error.system_error() == ENOENT) fail_without_config(path_);
    throw;
  }
  const std::string index = path_ + "/" + kIndex;
  if (file_exists(path_ + "/" + kSingle)) {
    open_single();
  } else if (file_exists(index)) {
    open_shards(index);
  } else {
    fail_without_weights(path_);
  }
}

void HfFolder::open_single() {
  const auto [place, added] = files_.emplace(kSingle, SafetensorsFile(path_ + "/" + kSingle));
  take_tensors(place->second);
}

void HfFolder::open_shards(const std::string& index_path) {
  const std::map<std::string, std::string> weight_map = read_weight_map(index_path);
  for (const auto& [tensor, name] : weight_map) {
    if (files_.contains(name)) continue;
    const std::string path = path_ + "/" + name;
    if (!file_exists(path)) {
      fail(ExitCode::kCheckpoint, "'{}' names the file {}, which is not in the folder.", index_path,
           name);
    }
    take_tensors(files_.emplace(name, SafetensorsFile(path)).first->second);
  }
  for (const auto& [tensor, name] : weight_map) {
    if (!files_.at(name).contains(tensor)) {
      fail(ExitCode::kCheckpoint, "'{}' says that the tensor {} is in {}, which does not have it.",
           index_path, tensor, name);
    }
  }
  for (const auto& [tensor, place] : tensors_) {
    if (!weight_map.contains(tensor)) {
      fail(ExitCode::kCheckpoint, "'{}' has the tensor {}, which the index '{}' does not list.",
           place.file->path(), tensor, index_path);
    }
  }
}

void HfFolder::take_tensors(const SafetensorsFile& file) {
  for (const auto& [name, entry] : file.tensors()) {
    const auto [place, added] = tensors_.emplace(name, Tensor{&file, &entry});
    if (!added) {
      fail(ExitCode::kCheckpoint, "The tensor {} is in two files: '{}' and '{}'.", name,
           place->second.file->path(), file.path());
    }
  }
}

std::string HfFolder::dtype() const {
  std::optional<TensorType> common;
  for (const auto& [name, tensor] : tensors_) {
    const TensorType type = tensor.entry->type;
    if (is_router_name(name) || !is_float_type(type)) continue;
    if (common && *common != type) return "float32";
    common = type;
  }
  return common ? dtype_name(*common) : "float32";
}

const HfFolder::Tensor* HfFolder::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<std::string> companion_files(const std::string& folder) {
  std::vector<std::string> present;
  for (const char* name : kCompanions) {
    if (file_exists(folder + "/" + name)) present.emplace_back(name);
  }
  return present;
}

std::string companions_of(const std::string& folder) {
  // A run that began with another run's checkpoint leads on to that run's start. A loop would need
  // a run that began with itself.
  constexpr int kLongestChain = 100;
  std::string place = folder;
  for (int i = 0; i < kLongestChain; ++i) {
    const std::string run_config = place + "/run.yaml";
    if (!companion_files(place).empty() || !file_exists(run_config)) break;
    const YamlNode root = read_yaml_file(run_config);
    const YamlNode* model = root.find("model");
    const YamlNode* start = model == nullptr ? nullptr : model->find("init_from");
    if (start == nullptr || start->kind != YamlNode::Kind::kScalar) break;
    place = start->text;
  }
  return place;
}

bool is_router_name(const std::string& name) { return name.ends_with(".self_attn.router.weight"); }

}  // namespace swiattn
