#include "checkpoint/hf_import.h"

#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <set>

#include "base/check.h"
#include "base/counter_random.h"
#include "base/hash.h"
#include "checkpoint/parallel_ranges.h"
#include "checkpoint/tensor_conversion.h"
#include "model/hybrid_attention.h"
#include "model/parameter_table.h"

namespace swiattn {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

// Fills masters tensor by tensor: in place where they are float32 in this memory, else through one
// buffer that is copied over. Taking new memory for every tensor would cost more than reading it,
// and a GPU copies from pinned memory several times as fast.
class MasterFiller {
 public:
  explicit MasterFiller(FlatParameters& parameters) {
    const at::Tensor& master = parameters.units().front().master;
    if (master.is_cpu() && master.scalar_type() == at::kFloat) return;
    int64_t longest = 0;
    for (const FlatUnit& unit : parameters.units()) {
      for (const Segment& segment : unit.segments) {
        longest = std::max(longest, segment.spec.numel());
      }
    }
    buffer_ =
        at::empty({longest}, at::TensorOptions().dtype(at::kFloat).pinned_memory(master.is_cuda()));
  }

  void fill(const FlatUnit& unit, const Segment& segment,
            const std::function<void(std::span<float>)>& write) const {
    const at::Tensor master = unit.master_view(segment);
    const at::Tensor values =
        buffer_.defined() ? buffer_.narrow(0, 0, master.numel()) : master.view({-1});
    write({values.data_ptr<float>(), static_cast<size_t>(values.numel())});
    if (buffer_.defined()) master.copy_(values.view(master.sizes()));
  }

 private:
  at::Tensor buffer_;
};

void draw_normal(const std::string& name, uint64_t seed, double std, std::span<float> out) {
  const uint64_t key = counter_bits({seed, hash_text(name)});
  parallel_ranges(static_cast<int64_t>(out.size()), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto index = static_cast<uint64_t>(i);
      const uint64_t first = mix_bits(key ^ mix_bits(2 * index));
      const uint64_t second = mix_bits(key ^ mix_bits(2 * index + 1));
      out[static_cast<size_t>(i)] = static_cast<float>(std * normal_from_bits(first, second));
    }
  });
}

void initialise(const MasterFiller& filler, const FlatUnit& unit, const Segment& segment,
                double matrix_std, const InitialWeights& initial) {
  const std::string& name = segment.spec.name;
  filler.fill(unit, segment, [&](std::span<float> out) {
    switch (segment.spec.role) {
      case ParameterRole::kMatrix:
        return draw_normal(name, initial.seed, matrix_std, out);
      case ParameterRole::kRouter:
        return draw_normal(name, initial.seed, initial.router_std, out);
      case ParameterRole::kNorm:
        return std::fill(out.begin(), out.end(), 1.0F);
      case ParameterRole::kBias:
        return std::fill(out.begin(), out.end(), 0.0F);
    }
  });
}

void check_type(const HfFolder::Tensor& tensor) {
  if (is_float_type(tensor.entry->type)) return;
  fail(ExitCode::kCheckpoint,
       "'{}': the tensor {} has the type {}; weights in F32, BF16 or F16 are expected.",
       tensor.file->path(), tensor.entry->name, to_string(tensor.entry->type));
}

void check_shape(const HfFolder::Tensor& tensor, const ParameterSpec& spec) {
  if (tensor.entry->shape == spec.shape) return;
  fail(ExitCode::kCheckpoint,
       "'{}': the tensor {} has the shape [{}], but config.json makes it [{}].",
       tensor.file->path(), spec.name, fmt::join(tensor.entry->shape, ", "),
       fmt::join(spec.shape, ", "));
}

void read_tensor(const HfFolder::Tensor& tensor, std::span<float> out) {
  widen(tensor.entry->type, tensor.data().data(), out);
  if (const auto index = first_nonfinite(out)) {
    fail(ExitCode::kCheckpoint,
         "'{}': the tensor {} has {} at its element {}: weights must be finite.",
         tensor.file->path(), tensor.entry->name, out[static_cast<size_t>(*index)], *index);
  }
}

// The tensor of a folder that this specification asks for; null for a router that is missing.
const HfFolder::Tensor* find_checked(const HfFolder& folder, const ParameterSpec& spec) {
  const HfFolder::Tensor* tensor = folder.find(spec.name);
  if (tensor != nullptr) {
    check_type(*tensor);
    check_shape(*tensor, spec);
  } else if (spec.role != ParameterRole::kRouter) {
    fail(ExitCode::kCheckpoint, "'{}' has no tensor {}, which config.json calls for.",
         folder.path(), spec.name);
  }
  return tensor;
}

// Some files hold the tied head as well. One that differs would silently be lost.
void check_tied_head(const HfFolder& folder, const HfFolder::Tensor& head) {
  const HfFolder::Tensor* embedding = folder.find(kEmbedding);
  const bool equal =
      embedding != nullptr && head.entry->type == embedding->entry->type &&
      head.entry->shape == embedding->entry->shape &&
      std::memcmp(head.data().data(), embedding->data().data(), head.entry->bytes) == 0;
  if (!equal) {
    fail(ExitCode::kCheckpoint,
         "'{}': the tensor {} differs from {}, yet config.json ties them (tie_word_embeddings is "
         "true). Remove the tensor or set tie_word_embeddings to false.",
         head.file->path(), kHead, kEmbedding);
  }
}

bool is_rotary_buffer(const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with("rotary_emb.cos_cached") ||
         name.ends_with("rotary_emb.sin_cached");
}

// Every tensor of the folder must belong to the model, routers or not.
void check_unknown(const HfFolder& folder) {
  std::set<std::string> known;
  for (const ParameterUnit& unit : parameter_table(folder.config(), true)) {
    for (const ParameterGroup& group : unit.groups) {
      for (const ParameterSpec& spec : group.members) known.insert(spec.name);
    }
  }
  for (const auto& [name, tensor] : folder.tensors()) {
    if (known.contains(name) || is_rotary_buffer(name)) continue;
    if (name == kHead && folder.config().tied_embeddings) {
      check_tied_head(folder, tensor);
      continue;
    }
    fail(ExitCode::kCheckpoint,
         "'{}': the tensor {} does not belong to a {} model of {} layers; loading without it would "
         "change the model.",
         tensor.file->path(), name, to_string(folder.config().architecture),
         folder.config().layers);
  }
}

void count(const ParameterSpec& spec, ImportReport& report) {
  report.tensors += 1;
  report.parameters += spec.numel();
}

}  // namespace

ImportReport load_weights(const HfFolder& folder, FlatParameters& parameters,
                          const InitialWeights& initial) {
  ImportReport report;
  check_unknown(folder);
  const MasterFiller filler(parameters);
  for (const FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      if (const HfFolder::Tensor* tensor = find_checked(folder, segment.spec)) {
        filler.fill(unit, segment, [&](std::span<float> out) { read_tensor(*tensor, out); });
        count(segment.spec, report);
      } else {
        initialise(filler, unit, segment, 0.0, initial);
        report.initialised.push_back(segment.spec.name);
      }
    }
  }
  return report;
}

void require_routers(const HfFolder& folder) {
  const auto attention = read_hybrid_attention(folder.config(), folder.path() + "/config.json");
  const bool called_for = attention && attention->has_router();
  bool any = false;
  std::string missing;  // the first one
  for (const ParameterUnit& unit : parameter_table(folder.config(), true)) {
    for (const ParameterGroup& group : unit.groups) {
      for (const ParameterSpec& spec : group.members) {
        if (spec.role != ParameterRole::kRouter) continue;
        const bool found = folder.find(spec.name) != nullptr;
        any = any || found;
        if (!found && missing.empty()) missing = spec.name;
      }
    }
  }
  if (missing.empty() || !(called_for || any)) return;
  fail(ExitCode::kCheckpoint, "'{}' {}, but no tensor {}: the folder is damaged or unfinished.",
       folder.path(), any ? "has routers" : "has a config.json that calls for routers", missing);
}

ImportReport verify_weights(const HfFolder& folder) {
  ImportReport report;
  std::vector<float> buffer;
  check_unknown(folder);
  for (const ParameterUnit& unit : parameter_table(folder.config(), true)) {
    for (const ParameterGroup& group : unit.groups) {
      for (const ParameterSpec& spec : group.members) {
        const HfFolder::Tensor* tensor = find_checked(folder, spec);
        if (tensor == nullptr) continue;  // a router
        buffer.resize(static_cast<size_t>(spec.numel()));
        read_tensor(*tensor, buffer);
        count(spec, report);
      }
    }
  }
  require_routers(folder);
  return report;
}

void initialise_weights(FlatParameters& parameters, const ModelConfig& config,
                        const InitialWeights& initial) {
  const MasterFiller filler(parameters);
  for (const FlatUnit& unit : parameters.units()) {
    for (const Segment& segment : unit.segments) {
      initialise(filler, unit, segment, config.initializer_range, initial);
    }
  }
}

}  // namespace swiattn
