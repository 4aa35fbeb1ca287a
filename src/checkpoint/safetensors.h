// The safetensors file format: reading by mapping, writing as a stream. docs/checkpoint-format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/file_system.h"
#include "base/hash.h"

namespace swiattn {

enum class TensorType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };
size_t byte_size(TensorType type);
const char* to_string(TensorType type);  // "F32", …

// One tensor of a file: where its bytes lie. Row-major, little endian.
struct TensorEntry {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // relative to the data section
  uint64_t bytes = 0;
  int64_t elements() const;
};

// A mapped, fully validated file. Throws Error{kCheckpoint} naming file and tensor for every
// violation listed in docs/checkpoint-format.md; what the constructor accepted can be read safely.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  const std::string& path() const { return file_.path(); }
  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  const TensorEntry& entry(const std::string& name) const;  // throws when missing
  std::span<const std::byte> data(const TensorEntry& entry) const;

 private:
  MappedFile file_;
  uint64_t data_begin_ = 0;
  std::map<std::string, TensorEntry> tensors_;
  std::map<std::string, std::string> metadata_;
};

// A tensor to be written: its description and where its bytes come from.
struct TensorSource {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;  // row-major, byte_size(type) * elements bytes; borrowed
  // Used when `data` is null: fills `block` with the bytes from `offset` on (a multiple of
  // kWriteBlock), so that a conversion never needs a second copy of the model.
  std::function<void(uint64_t offset, std::span<std::byte> block)> fill = nullptr;
};

inline constexpr uint64_t kWriteBlock = 8 << 20;  // bytes per call of TensorSource::fill

struct WrittenFile {
  uint64_t bytes = 0;
  uint64_t hash = 0;  // XXH3-64 of the whole file
};

// Writes `tensors` (sorted by alignment, then name, as the reference implementation does), hashing
// while writing; the file is synced and closed. The caller renames it into place.
WrittenFile write_safetensors(FileSystem& files, const std::string& path,
                              std::vector<TensorSource> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace swiattn
