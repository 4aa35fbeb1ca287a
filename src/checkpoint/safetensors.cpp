#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "base/check.h"
#include "base/json.h"

namespace swiattn {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little endian");

constexpr uint64_t kLongestHeader = 100'000'000;
constexpr uint64_t kLengthBytes = 8;

struct TypeRow {
  TensorType type;
  const char* name;
  size_t bytes;
};
constexpr std::array<TypeRow, 10> kTypes{{{TensorType::kF64, "F64", 8},
                                          {TensorType::kF32, "F32", 4},
                                          {TensorType::kF16, "F16", 2},
                                          {TensorType::kBF16, "BF16", 2},
                                          {TensorType::kI64, "I64", 8},
                                          {TensorType::kI32, "I32", 4},
                                          {TensorType::kI16, "I16", 2},
                                          {TensorType::kI8, "I8", 1},
                                          {TensorType::kU8, "U8", 1},
                                          {TensorType::kBool, "BOOL", 1}}};

const TypeRow& row(TensorType type) {
  for (const TypeRow& candidate : kTypes) {
    if (candidate.type == type) return candidate;
  }
  fail(ExitCode::kInternal, "Internal error: a tensor type without a row in the table.");
}

TensorType parse_type(const JsonCursor& json) {
  const std::string name = json.string();
  for (const TypeRow& candidate : kTypes) {
    if (name == candidate.name) return candidate.type;
  }
  json.refuse("a type of elements that is supported (F64, F32, F16, BF16, I64 … I8, U8, BOOL)");
}

// The product of the shape and the size of an element; nothing when it exceeds 64 bits.
std::optional<uint64_t> checked_bytes(const std::vector<int64_t>& shape, TensorType type) {
  uint64_t bytes = byte_size(type);
  for (const int64_t extent : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes)) return std::nullopt;
  }
  return bytes;
}

TensorEntry parse_entry(const std::string& name, const JsonCursor& json) {
  for (const std::string& key : json.keys()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      json.refuse(fmt::format("only dtype, shape and data_offsets (\"{}\" is unknown)", key));
    }
  }
  TensorEntry entry;
  entry.name = name;
  entry.type = parse_type(json["dtype"]);
  const JsonCursor shape = json["shape"];
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    entry.shape.push_back(shape.at(axis).integer(0, INT64_MAX));
  }
  const std::optional<uint64_t> expected = checked_bytes(entry.shape, entry.type);
  if (!expected) shape.refuse("a shape whose size fits 64 bits");
  const JsonCursor offsets = json["data_offsets"];
  if (offsets.size() != 2) offsets.refuse("two offsets, begin and end");
  entry.begin = static_cast<uint64_t>(offsets.at(0).integer(0, INT64_MAX));
  const auto end = static_cast<uint64_t>(offsets.at(1).integer(0, INT64_MAX));
  if (end < entry.begin) offsets.refuse("an end that is not before the begin");
  entry.bytes = end - entry.begin;
  if (entry.bytes != *expected) {
    offsets.refuse(
        fmt::format("{} bytes for its shape and type ({} were given)", *expected, entry.bytes));
  }
  return entry;
}

std::map<std::string, std::string> parse_metadata(const JsonCursor& json) {
  std::map<std::string, std::string> metadata;
  for (const std::string& key : json.keys()) metadata[key] = json[key].string();
  return metadata;
}

// The length of the header, checked against the file's.
uint64_t header_length(const MappedFile& file) {
  uint64_t length = 0;
  if (file.size() < kLengthBytes) {
    fail(ExitCode::kCheckpoint, "'{}' has {} bytes: too short for a safetensors file.", file.path(),
         file.size());
  }
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kLongestHeader) {
    fail(ExitCode::kCheckpoint,
         "'{}' claims a header of {} bytes; at most {} are allowed. It is not a safetensors file, "
         "or it is damaged.",
         file.path(), length, kLongestHeader);
  }
  if (length > file.size() - kLengthBytes) {
    fail(ExitCode::kCheckpoint,
         "'{}' has {} bytes but claims a header of {}: it was cut short. Copy it again.",
         file.path(), file.size(), length);
  }
  if (length == 0 || std::to_integer<char>(file.data()[kLengthBytes]) != '{') {
    fail(ExitCode::kCheckpoint, "'{}': the header of a safetensors file must begin with '{{'.",
         file.path());
  }
  return length;
}

// Tensors must fill the data section from its first byte to the file's last, without gap or
// overlap.
void check_coverage(const std::map<std::string, TensorEntry>& tensors, uint64_t data_bytes,
                    const std::string& path) {
  std::vector<const TensorEntry*> order;
  for (const auto& [name, entry] : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const TensorEntry* a, const TensorEntry* b) {
    return std::pair(a->begin, a->bytes) < std::pair(b->begin, b->bytes);
  });
  uint64_t position = 0;
  for (const TensorEntry* entry : order) {
    if (entry->begin != position) {
      fail(ExitCode::kCheckpoint,
           "'{}': the tensor {} begins at byte {} of the data, but the one before it ends at {}.",
           path, entry->name, entry->begin, position);
    }
    position += entry->bytes;
  }
  if (position != data_bytes) {
    fail(ExitCode::kCheckpoint,
         "'{}': its tensors need {} bytes, but {} follow the header: the file was cut short or "
         "something was appended.",
         path, position, data_bytes);
  }
}

// The reference's order: wide elements first, so that every tensor is aligned, then by name.
bool comes_before(const TensorSource& a, const TensorSource& b) {
  const size_t width_a = byte_size(a.type);
  const size_t width_b = byte_size(b.type);
  return width_a != width_b ? width_a > width_b : a.name < b.name;
}

uint64_t source_bytes(const TensorSource& tensor) {
  const std::optional<uint64_t> bytes = checked_bytes(tensor.shape, tensor.type);
  SWIATTN_CHECK(bytes, "the tensor {} is too large", tensor.name);
  return *bytes;
}

// Length and JSON, padded with spaces to a multiple of 8.
std::string format_header(const std::vector<TensorSource>& tensors,
                          const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const TensorSource& tensor : tensors) {
    SWIATTN_CHECK(!header.contains(tensor.name), "the tensor {} twice", tensor.name);
    const uint64_t end = offset + source_bytes(tensor);
    header[tensor.name] = {{"dtype", to_string(tensor.type)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  SWIATTN_CHECK(length <= kLongestHeader, "a header of {} bytes", length);
  std::string prefix(kLengthBytes, '\0');
  std::memcpy(prefix.data(), &length, kLengthBytes);
  return prefix + text;
}

// Appends and hashes at once.
class HashingFile {
 public:
  HashingFile(FileSystem& files, const std::string& path) : file_(files.create(path)) {}
  void append(const void* bytes, size_t count) {
    hasher_.update(bytes, count);
    file_->append(bytes, count);
    written_ += count;
  }
  WrittenFile finish() {
    file_->sync();
    file_->close();
    return {written_, hasher_.digest()};
  }

 private:
  std::unique_ptr<WritableFile> file_;
  Hasher hasher_;
  uint64_t written_ = 0;
};

void append_tensor(HashingFile& file, const TensorSource& tensor, std::vector<std::byte>& buffer) {
  const uint64_t bytes = source_bytes(tensor);
  for (uint64_t offset = 0; offset < bytes; offset += kWriteBlock) {
    const uint64_t count = std::min(kWriteBlock, bytes - offset);
    const std::byte* block = static_cast<const std::byte*>(tensor.data) + offset;
    if (tensor.data == nullptr) {
      buffer.resize(kWriteBlock);
      tensor.fill(offset, std::span(buffer).first(count));
      block = buffer.data();
    }
    file.append(block, count);
  }
}

}  // namespace

size_t byte_size(TensorType type) { return row(type).bytes; }

const char* to_string(TensorType type) { return row(type).name; }

int64_t TensorEntry::elements() const { return static_cast<int64_t>(bytes / byte_size(type)); }

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path, ExitCode::kCheckpoint) {
  const uint64_t length = header_length(file_);
  data_begin_ = kLengthBytes + length;
  const std::string_view text(reinterpret_cast<const char*>(file_.data()) + kLengthBytes, length);
  const Json header = parse_json(text, path, ExitCode::kCheckpoint);
  const JsonCursor json(header, path, ExitCode::kCheckpoint);
  for (const std::string& name : json.keys()) {
    if (name == "__metadata__") {
      metadata_ = parse_metadata(json[name]);
    } else {
      tensors_.emplace(name, parse_entry(name, json[name]));
    }
  }
  check_coverage(tensors_, file_.size() - data_begin_, path);
}

const TensorEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    fail(ExitCode::kCheckpoint, "'{}' has no tensor {}.", path(), name);
  }
  return found->second;
}

std::span<const std::byte> SafetensorsFile::data(const TensorEntry& entry) const {
  return {file_.data() + data_begin_ + entry.begin, entry.bytes};
}

WrittenFile write_safetensors(FileSystem& files, const std::string& path,
                              std::vector<TensorSource> tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), comes_before);
  HashingFile file(files, path);
  const std::string header = format_header(tensors, metadata);
  file.append(header.data(), header.size());
  std::vector<std::byte> buffer;
  for (const TensorSource& tensor : tensors) append_tensor(file, tensor, buffer);
  return file.finish();
}

}  // namespace swiattn
