#include "small_run.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "base/file_system.h"
#include "checkpoint/safetensors.h"

namespace swiattn {

void write_model_folder(const std::string& folder, const ModelConfig& config,
                        const std::map<std::string, at::Tensor>& weights) {
  static const std::map<Architecture, std::string> kClasses = {
      {Architecture::kLlama, "LlamaForCausalLM"},
      {Architecture::kMistral, "MistralForCausalLM"},
      {Architecture::kQwen2, "Qwen2ForCausalLM"},
      {Architecture::kQwen3, "Qwen3ForCausalLM"}};
  std::filesystem::create_directories(folder);
  const Json json = {{"architectures", {kClasses.at(config.architecture)}},
                     {"model_type", to_string(config.architecture)},
                     {"vocab_size", config.vocab_size},
                     {"hidden_size", config.hidden_size},
                     {"intermediate_size", config.intermediate_size},
                     {"num_hidden_layers", config.layers},
                     {"num_attention_heads", config.heads},
                     {"num_key_value_heads", config.kv_heads},
                     {"head_dim", config.head_dim},
                     {"max_position_embeddings", config.max_positions},
                     {"rms_norm_eps", config.rms_norm_eps},
                     {"rope_theta", config.rope_theta},
                     {"tie_word_embeddings", config.tied_embeddings},
                     {"hidden_act", "silu"},
                     {"torch_dtype", "float32"},
                     {"eos_token_id", config.vocab_size - 1}};
  std::ofstream(folder + "/config.json") << json.dump(2);
  std::vector<at::Tensor> floats;
  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : weights) {
    floats.push_back(tensor.to(at::kFloat).contiguous());
    sources.push_back(
        {name, TensorType::kF32, tensor.sizes().vec(), floats.back().const_data_ptr()});
  }
  write_safetensors(FileSystem::posix(), folder + "/model.safetensors", sources,
                    {{"format", "pt"}});
}

std::vector<int32_t> random_documents(int64_t count, int64_t vocab_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto eos = static_cast<int32_t>(vocab_size - 1);
  std::vector<int32_t> tokens;
  while (static_cast<int64_t>(tokens.size()) < count) {
    const auto length = 1 + random() % 30;
    for (uint64_t i = 0; i < length; ++i) {
      tokens.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(eos)));
    }
    tokens.push_back(eos);
  }
  tokens.resize(static_cast<size_t>(count));
  return tokens;
}

void write_flat_shard(const std::string& path, const std::vector<int32_t>& tokens) {
  std::ofstream file(path, std::ios::binary);
  for (const int32_t token : tokens) {
    const auto narrow = static_cast<uint16_t>(token);
    file.write(reinterpret_cast<const char*>(&narrow), sizeof(narrow));
  }
}

ProgramResult run_command(const std::string& command) {
  ProgramResult result;
  FILE* pipe = popen(("OMP_NUM_THREADS=1 " + command + " 2>&1").c_str(), "r");
  std::array<char, 4096> buffer;
  for (size_t count = 0; (count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    result.output.append(buffer.data(), count);
  }
  const int status = pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

std::vector<Json> read_metrics(const std::string& folder, const std::string& kind) {
  std::istringstream lines(read_file(folder + "/metrics.jsonl", ExitCode::kData));
  std::vector<Json> result;
  for (std::string line; std::getline(lines, line);) {
    Json json = Json::parse(line);
    if (json.at("kind") == kind) result.push_back(std::move(json));
  }
  return result;
}

std::map<std::string, at::Tensor> read_checkpoint_weights(const std::string& run_folder) {
  std::string newest;
  for (const std::string& name : list_folder(run_folder + "/checkpoints", ExitCode::kData)) {
    if (name.starts_with("step-") && name.size() == 13) newest = name;
  }
  const SafetensorsFile file(run_folder + "/checkpoints/" + newest + "/model.safetensors");
  std::map<std::string, at::Tensor> weights;
  for (const auto& [name, entry] : file.tensors()) {
    weights[name] =
        at::from_blob(const_cast<std::byte*>(file.data(entry).data()), entry.shape, at::kFloat)
            .to(at::kDouble);
  }
  return weights;
}

}  // namespace swiattn
