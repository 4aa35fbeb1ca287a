#include "trainer/training_checkpoint.h"

#include <ATen/ATen.h>

#include <cstring>
#include <optional>

#include "base/json.h"
#include "checkpoint/export_config.h"
#include "checkpoint/hf_folder.h"
#include "checkpoint/safetensors.h"
#include "trainer/model_setup.h"

namespace swiattn {
namespace {

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kProgressFile = "training.json";
constexpr const char* kConfigFile = "run.yaml";

at::Tensor slice(const at::Tensor& buffer, const Segment& segment) {
  return buffer.narrow(0, segment.offset, segment.spec.numel());
}

// A flat tensor of float32 or bfloat16 as a source: its memory where the CPU has it, copied block
// by block else.
TensorSource source_of(std::string name, const Segment& segment, const at::Tensor& values) {
  const bool narrow = values.scalar_type() == at::kBFloat16;
  TensorSource source{std::move(name), narrow ? TensorType::kBF16 : TensorType::kF32,
                      segment.spec.shape};
  if (values.device().is_cpu()) {
    source.data = values.const_data_ptr();
    return source;
  }
  source.fill = [values](uint64_t offset, std::span<std::byte> block) {
    const auto size = static_cast<uint64_t>(values.element_size());
    const at::Tensor part = values
                                .narrow(0, static_cast<int64_t>(offset / size),
                                        static_cast<int64_t>(block.size() / size))
                                .cpu();
    std::memcpy(block.data(), part.const_data_ptr(), block.size());
  };
  return source;
}

uint64_t checkpoint_bytes(const FlatParameters& parameters) {
  uint64_t bytes = 16 << 20;
  for (const FlatUnit& unit : parameters.units()) {
    bytes += unit.master.nbytes() + unit.moment1.nbytes() + unit.moment2.nbytes();
  }
  return bytes;
}

// `narrow` is what the tensor may be besides float32.
void copy_tensor(const SafetensorsFile& file, const std::string& name, const Segment& segment,
                 const at::Tensor& to, std::optional<TensorType> narrow) {
  const TensorEntry& entry = file.entry(name);
  const bool readable = entry.type == TensorType::kF32 || entry.type == narrow;
  if (!readable || entry.shape != segment.spec.shape) {
    fail(ExitCode::kCheckpoint,
         "{}: the tensor {} is {} of [{}], but this model needs F32{} of [{}]; the checkpoint "
         "belongs to another model.",
         file.path(), name, to_string(entry.type), fmt::join(entry.shape, ", "),
         narrow ? fmt::format(" or {}", to_string(*narrow)) : "",
         fmt::join(segment.spec.shape, ", "));
  }
  const at::Tensor host =
      at::from_blob(const_cast<std::byte*>(file.data(entry).data()), {segment.spec.numel()},
                    entry.type == TensorType::kF32 ? at::kFloat : at::kBFloat16);
  to.copy_(host);
}

}  // namespace

Json to_json(const TrainingProgress& progress) {
  return {{"step", progress.step},
          {"tokens", progress.tokens},
          {"updates", progress.updates},
          {"skipped", progress.skipped},
          {"skipped_in_a_row", progress.skipped_in_a_row},
          {"gamma", progress.gamma}};
}

TrainingProgress progress_from_json(const JsonCursor& json) {
  const auto count = [&](const char* key) { return json[key].integer(0, int64_t{1} << 60); };
  return {count("step"),    count("tokens"),           count("updates"),
          count("skipped"), count("skipped_in_a_row"), json["gamma"].number()};
}

void save_training_checkpoint(CheckpointStore& store, FileSystem& files,
                              const FlatParameters& parameters, const ModelConfig& model,
                              const RunConfig& config, const TrainingProgress& progress,
                              int world) {
  std::vector<TensorSource> weights;
  std::vector<TensorSource> moments;
  for (const FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      const std::string& name = segment.spec.name;
      weights.push_back(source_of(name, segment, slice(unit.master, segment)));
      if (!segment.trainable) continue;
      moments.push_back(source_of("exp_avg." + name, segment, slice(unit.moment1, segment)));
      moments.push_back(source_of("exp_avg_sq." + name, segment, slice(unit.moment2, segment)));
    }
  }
  CheckpointWriter writer = store.begin(progress.step, checkpoint_bytes(parameters));
  const auto write = [&](const char* name, std::vector<TensorSource> tensors) {
    const WrittenFile file =
        write_safetensors(files, writer.path(name), std::move(tensors), {{"format", "pt"}});
    writer.add(name, file.bytes, file.hash);
  };
  write(kModelFile, std::move(weights));
  write(kOptimizerFile, std::move(moments));
  const HybridAttention attention = hybrid_attention(config);
  const ExportLayout layout =
      attention.has_router() ? ExportLayout::kHybrid : ExportLayout::kBaseWithMode;
  writer.add_text("config.json",
                  export_config(model, layout, model.dtype, attention).dump(2) + "\n");
  writer.add_text(kProgressFile, to_json(progress).dump(2) + "\n");
  writer.add_text(kConfigFile, print_run_config(config));
  writer.commit({progress.step, progress.tokens, world, hash_run_config(config)});
}

TrainingProgress read_progress(const SavedCheckpoint& checkpoint) {
  const std::string path = checkpoint.path(kProgressFile);
  const Json json = read_json_file(path, ExitCode::kCheckpoint);
  return progress_from_json(JsonCursor(json, path, ExitCode::kCheckpoint));
}

RunConfig read_saved_config(const SavedCheckpoint& checkpoint) {
  return read_run_config(checkpoint.path(kConfigFile), {});
}

void load_training_checkpoint(const SavedCheckpoint& checkpoint, FlatParameters& parameters) {
  const SafetensorsFile weights(checkpoint.path(kModelFile));
  const SafetensorsFile moments(checkpoint.path(kOptimizerFile));
  for (FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      const std::string& name = segment.spec.name;
      copy_tensor(weights, name, segment, slice(unit.master, segment), {});
      if (!segment.trainable || !moments.contains("exp_avg." + name)) continue;
      constexpr TensorType kNarrow = TensorType::kBF16;
      copy_tensor(moments, "exp_avg." + name, segment, slice(unit.moment1, segment), kNarrow);
      copy_tensor(moments, "exp_avg_sq." + name, segment, slice(unit.moment2, segment), kNarrow);
    }
  }
}

}  // namespace swiattn
