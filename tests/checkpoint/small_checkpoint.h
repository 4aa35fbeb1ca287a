// A checkpoint of two small files, saved as the trainer saves its own.
#pragma once

#include <cstdint>
#include <string>

#include "base/hash.h"
#include "checkpoint/checkpoint_store.h"

namespace swiattn {

inline std::string weights_of(int64_t step) { return "weights of step " + std::to_string(step); }

// What the trainer does: one file written by itself, one given as text.
inline void write_payload(FileSystem& files, CheckpointWriter& writer, int64_t step) {
  const std::string weights = weights_of(step);
  const auto file = files.create(writer.path("weights.safetensors"));
  file->append(weights);
  file->sync();
  file->close();
  writer.add("weights.safetensors", weights.size(), hash_text(weights));
  writer.add_text("state.json", "{}");
}

inline void save(FileSystem& files, CheckpointStore& store, int64_t step) {
  CheckpointWriter writer = store.begin(step, 1000);
  write_payload(files, writer, step);
  writer.commit({step, step * 4096, 1, 42});
}

}  // namespace swiattn
