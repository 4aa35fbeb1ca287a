#include "checkpoint/hf_export.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"
#include "base/json.h"
#include "checkpoint/embedded_python.h"
#include "checkpoint/export_config.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/model_card.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/tensor_conversion.h"

namespace swiattn {
namespace {

struct ExportTensor {
  const FlatUnit* unit = nullptr;
  const Segment* segment = nullptr;
  TensorType type = TensorType::kF32;
  uint64_t bytes() const { return static_cast<uint64_t>(segment->spec.numel()) * byte_size(type); }
};

std::vector<ExportTensor> select_tensors(const FlatParameters& parameters, TensorType type,
                                         bool with_router) {
  std::vector<ExportTensor> tensors;
  for (const FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      const bool router = segment.spec.role == ParameterRole::kRouter;
      if (router && !with_router) continue;
      tensors.push_back({&unit, &segment, router ? TensorType::kF32 : type});
    }
  }
  return tensors;
}

// In the order of the model, each at most `limit` bytes unless a single tensor is larger.
std::vector<std::vector<ExportTensor>> split_into_shards(const std::vector<ExportTensor>& tensors,
                                                         uint64_t limit) {
  std::vector<std::vector<ExportTensor>> shards(1);
  uint64_t filled = 0;
  for (const ExportTensor& tensor : tensors) {
    if (filled > 0 && filled + tensor.bytes() > limit) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(tensor);
    filled += tensor.bytes();
  }
  return shards;
}

std::string shard_name(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

// Rounds one block of a tensor; a weight that is or becomes infinite must not leave the house.
void fill_block(const ExportTensor& tensor, uint64_t offset, std::span<std::byte> block) {
  const size_t width = byte_size(tensor.type);
  const auto begin = static_cast<int64_t>(offset / width);
  const auto count = static_cast<int64_t>(block.size() / width);
  const at::Tensor values = tensor.unit->master_view(*tensor.segment)
                                .view({-1})
                                .narrow(0, begin, count)
                                .to(at::kCPU, at::kFloat);
  const std::span<const float> floats(values.const_data_ptr<float>(), static_cast<size_t>(count));
  narrow(tensor.type, floats, block.data());
  std::vector<float> written(floats.size());
  widen(tensor.type, block.data(), written);
  if (const auto index = first_nonfinite(written)) {
    fail(ExitCode::kCheckpoint,
         "The tensor {} holds {} at its element {}, which is no finite {}{}.",
         tensor.segment->spec.name, floats[static_cast<size_t>(*index)], begin + *index,
         dtype_name(tensor.type),
         tensor.type == TensorType::kF16 ? "; export in bfloat16 or float32" : "");
  }
}

TensorSource source_of(const ExportTensor& tensor) {
  return {
      tensor.segment->spec.name, tensor.type, tensor.segment->spec.shape, nullptr,
      [tensor](uint64_t offset, std::span<std::byte> block) { fill_block(tensor, offset, block); }};
}

void write_text(FileSystem& files, const std::string& path, std::string_view text) {
  const auto file = files.create(path);
  file->append(text);
  file->sync();
  file->close();
}

void write_weights(FileSystem& files, const std::string& folder,
                   const std::vector<ExportTensor>& tensors, uint64_t shard_bytes) {
  const auto shards = split_into_shards(tensors, shard_bytes);
  Json weight_map = Json::object();
  uint64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    std::vector<TensorSource> sources;
    for (const ExportTensor& tensor : shards[i]) {
      sources.push_back(source_of(tensor));
      weight_map[tensor.segment->spec.name] = name;
      total += tensor.bytes();
    }
    write_safetensors(files, folder + "/" + name, std::move(sources), {{"format", "pt"}});
  }
  if (shards.size() == 1) return;
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  write_text(files, folder + "/model.safetensors.index.json", index.dump(2) + "\n");
}

void copy_companions(FileSystem& files, const std::string& from, const std::string& to) {
  if (from.empty()) return;
  for (const std::string& name : companion_files(from)) {
    const MappedFile source(from + "/" + name, ExitCode::kCheckpoint);
    write_text(files, to + "/" + name,
               {reinterpret_cast<const char*>(source.data()), source.size()});
  }
}

void write_folder(FileSystem& files, const FlatParameters& parameters, const ModelConfig& config,
                  ExportLayout layout, const ExportOptions& options, const std::string& folder) {
  const bool hybrid = layout == ExportLayout::kHybrid;
  const auto tensors = select_tensors(parameters, float_type(options.dtype), hybrid);
  write_weights(files, folder, tensors, options.shard_bytes);
  const Json json = export_config(config, layout, options.dtype, options.attention);
  write_text(files, folder + "/config.json", json.dump(2) + "\n");
  write_text(files, folder + "/README.md", model_card(config, layout, options));
  if (layout != ExportLayout::kBase) {
    write_text(files, folder + "/configuration_swiattn.py", kConfigurationPython);
    write_text(files, folder + "/modeling_swiattn.py", kModelingPython);
  }
  copy_companions(files, options.companions_from, folder);
}

std::string parent_of(const std::string& folder) {
  const std::filesystem::path parent = std::filesystem::path(folder).parent_path();
  return parent.empty() ? "." : parent.string();
}

void check_room(const FlatParameters& parameters, const ExportOptions& options,
                const std::string& parent) {
  uint64_t needed = 1 << 20;  // config, card, code
  for (const ExportTensor& tensor : select_tensors(parameters, float_type(options.dtype), true)) {
    needed += tensor.bytes();
  }
  const uint64_t free = free_bytes(parent);
  if (free < needed) {
    fail(ExitCode::kCheckpoint,
         "The disk of '{}' has {} bytes free, but the export needs {}: make room and export again.",
         parent, free, needed);
  }
}

void export_layout(FileSystem& files, const FlatParameters& parameters, const ModelConfig& config,
                   ExportLayout layout, const ExportOptions& options, std::string folder) {
  while (folder.size() > 1 && folder.ends_with('/')) folder.pop_back();
  if (file_exists(folder) || folder_exists(folder)) {
    fail(ExitCode::kCheckpoint,
         "'{}' exists already: remove it or export to another name. Nothing was written.", folder);
  }
  const std::string parent = parent_of(folder);
  const std::string temporary = folder + ".tmp";
  files.make_folders(parent);
  check_room(parameters, options, parent);
  if (folder_exists(temporary))
    files.remove_folder_tree(temporary);  // of an export that was cut off
  files.make_folders(temporary);
  write_folder(files, parameters, config, layout, options, temporary);
  files.sync_folder(temporary);
  files.rename(temporary, folder);
  files.sync_folder(parent);
}

}  // namespace

void export_hybrid(FileSystem& files, const FlatParameters& parameters, const ModelConfig& config,
                   const ExportOptions& options, const std::string& folder) {
  const std::string& mode = options.attention.mode;
  const ExportLayout layout = mode == "switch" ? ExportLayout::kHybrid
                              : mode == "full" ? ExportLayout::kBase
                                               : ExportLayout::kBaseWithMode;
  export_layout(files, parameters, config, layout, options, folder);
}

void export_base(FileSystem& files, const FlatParameters& parameters, const ModelConfig& config,
                 const ExportOptions& options, const std::string& folder) {
  export_layout(files, parameters, config, ExportLayout::kBase, options, folder);
}

}  // namespace swiattn
