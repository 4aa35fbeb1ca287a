// The small models of tests/fixtures/models, and changes made to copies of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "base/json.h"
#include "checkpoint/hf_folder.h"
#include "model/parameter_table.h"
#include "parallel/flat_parameters.h"
#include "tests/base/temporary_folder.h"

namespace swiattn {

inline std::string model_fixture(const std::string& name) {
  return std::string(SWIATTN_TEST_FIXTURES) + "/models/" + name;
}

// A copy of a fixture that a test may spoil.
inline std::string copy_of_model(const TemporaryFolder& folder, const std::string& name) {
  std::string path = folder.file(name);
  std::filesystem::copy(model_fixture(name), path, std::filesystem::copy_options::recursive);
  return path;
}

inline void change_json(const std::string& path, const std::function<void(Json&)>& change) {
  Json json = read_json_file(path, ExitCode::kCheckpoint);
  change(json);
  write_file(path, json.dump());
}

// The tensors of a file as bytes, to be changed and written again.
struct EditableTensor {
  TensorType type;
  std::vector<int64_t> shape;
  std::string bytes;
};
using EditableTensors = std::map<std::string, EditableTensor>;

inline void change_tensors(const std::string& path,
                           const std::function<void(EditableTensors&)>& change) {
  EditableTensors tensors;
  {
    const SafetensorsFile file(path);
    for (const auto& [name, entry] : file.tensors()) {
      const auto data = file.data(entry);
      tensors[name] = {entry.type, entry.shape,
                       std::string(reinterpret_cast<const char*>(data.data()), data.size())};
    }
  }
  change(tensors);
  std::vector<TensorSource> sources;
  for (const auto& [name, tensor] : tensors) {
    sources.push_back({name, tensor.type, tensor.shape, tensor.bytes.data()});
  }
  write_safetensors(FileSystem::posix(), path, std::move(sources), {});
}

inline FlatParameters parameters_of(const ModelConfig& config, bool with_router,
                                    at::ScalarType compute = at::kFloat) {
  return {parameter_table(config, with_router),
          {},
          compute,
          at::kCPU,
          FlatParameters::Purpose::kEvaluation};
}

inline at::Tensor weight(FlatParameters& parameters, const std::string& name) {
  for (FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      if (segment.spec.name == name) return unit.master_view(segment);
    }
  }
  return {};
}

}  // namespace swiattn
