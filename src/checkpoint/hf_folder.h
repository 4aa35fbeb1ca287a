// A Hugging Face model folder: config.json and the weights in one safetensors file or in shards.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "model/model_config.h"

namespace swiattn {

// Opened and checked: config.json is a supported model; model.safetensors, or the index and every
// file it names, is valid; every tensor lies in the file that the index names and in no other.
// Errors are Error{kCheckpoint}. As in transformers, model.safetensors wins over an index, and the
// index's total_size is not relied on. Names and shapes are not compared with the config here:
// load_weights (hf_import.h) does.
class HfFolder {
 public:
  explicit HfFolder(std::string path);

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }

  // The type that all weights but the routers share, or float32 when they differ: an export in it
  // loses nothing.
  std::string dtype() const;

  struct Tensor {
    const SafetensorsFile* file = nullptr;
    const TensorEntry* entry = nullptr;
    std::span<const std::byte> data() const { return file->data(*entry); }
  };
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  const Tensor* find(const std::string& name) const;  // null when there is none

 private:
  void open_single();
  void open_shards(const std::string& index_path);
  void take_tensors(const SafetensorsFile& file);

  std::string path_;
  ModelConfig config_;
  std::map<std::string, SafetensorsFile> files_;  // by base name
  std::map<std::string, Tensor> tensors_;
};

// The files of a model folder that belong to its tokenizer, its way of generating and its licence:
// what an export copies as it is. Base names, sorted; empty when there is no such folder.
std::vector<std::string> companion_files(const std::string& folder);

// The folder that has them for a model folder or a run's checkpoint: itself, or where the run (and
// the run before it) began. `folder` again where none has any.
std::string companions_of(const std::string& folder);

// "model.layers.0.self_attn.router.weight" and its like.
bool is_router_name(const std::string& name);

}  // namespace swiattn
