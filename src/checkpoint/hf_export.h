// From master weights to a Hugging Face folder that transformers loads. docs/huggingface-export.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "model/hybrid_attention.h"
#include "model/model_config.h"
#include "parallel/flat_parameters.h"

namespace swiattn {

// A line of the model card's table.
struct CardLine {
  std::string name;   // "Tokens with full attention"
  std::string value;  // "13.2 %"
};

struct ExportOptions {
  std::string dtype = "bfloat16";  // of all weights but the routers, which are always float32
  HybridAttention attention;       // what the model was trained with
  std::string companions_from;     // a model folder whose companion_files are copied; "" for none
  std::vector<CardLine> card;      // what was measured, for README.md
  uint64_t shard_bytes = 5'000'000'000;
};

// Writes the model as a run trained it. In mode `switch`: a hybrid with routers and the code that
// transformers needs (trust_remote_code). In mode `full`: the plain base model. In modes `static`
// and `window`: the base model's tensors and model_type, with the mode in config.json and the same
// code.
//
// The folder appears whole or not at all: it is written as FOLDER.tmp, synced and renamed. Throws
// Error{kCheckpoint} when FOLDER exists, when the disk has too little room, or when a weight is not
// finite or too large for `dtype`, and FileError for what the disk refuses.
void export_hybrid(FileSystem& files, const FlatParameters& parameters, const ModelConfig& config,
                   const ExportOptions& options, const std::string& folder);

// Writes the plain base model, without routers or windows: what was imported comes back, with the
// weights of now.
void export_base(FileSystem& files, const FlatParameters& parameters, const ModelConfig& config,
                 const ExportOptions& options, const std::string& folder);

}  // namespace swiattn
