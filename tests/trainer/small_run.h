// A whole run on files: a small random model as a Hugging Face folder, a flat token shard, a YAML
// file, and swiattn-train as a user starts it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/model_config.h"

namespace swiattn {

// Writes config.json and a float32 model.safetensors.
void write_model_folder(const std::string& folder, const ModelConfig& config,
                        const std::map<std::string, at::Tensor>& weights);

// Random tokens below vocab_size - 1 in documents of random length that end in vocab_size - 1.
std::vector<int32_t> random_documents(int64_t count, int64_t vocab_size, uint64_t seed);

// A flat shard of 16-bit tokens.
void write_flat_shard(const std::string& path, const std::vector<int32_t>& tokens);

struct ProgramResult {
  int code = 0;
  std::string output;  // both streams
};

// Runs a command of a shell, OMP_NUM_THREADS=1.
ProgramResult run_command(const std::string& command);

// The lines of FOLDER/metrics.jsonl of this kind.
std::vector<Json> read_metrics(const std::string& folder, const std::string& kind);

// The masters of the newest checkpoint, float64 by name.
std::map<std::string, at::Tensor> read_checkpoint_weights(const std::string& run_folder);

}  // namespace swiattn
