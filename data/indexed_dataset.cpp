#include "data/indexed_dataset.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"

namespace swiattn {
namespace {

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr uint64_t kVersion = 1;
constexpr uint64_t kHeaderBytes = 9 + 8 + 1 + 8 + 8;

template <class Value>
Value load(const std::byte* bytes, int64_t index = 0) {
  Value value;
  std::memcpy(&value, bytes + index * static_cast<int64_t>(sizeof(Value)), sizeof(Value));
  return value;
}

}  // namespace

IndexedDataset::IndexedDataset(const std::string& name, const std::string& prefix)
    : TokenSource(name, read_side_file(prefix)),
      index_file_(prefix + ".idx", ExitCode::kData),
      payload_(prefix + ".bin", ExitCode::kData),
      index_(parse(index_file_)),
      tokens_(static_cast<int64_t>(payload_.size() / token_bytes(index_.type))) {
  check_sequences();
  check_boundaries();
  check_side_file(info(), prefix, index_.type, tokens_, index_.documents);
}

IndexedDataset::Index IndexedDataset::parse(const MappedFile& file) {
  const std::string& path = file.path();
  if (file.size() < kHeaderBytes) {
    fail(ExitCode::kData, "{}: truncated: {} bytes, less than the {} of an index header.", path,
         file.size(), kHeaderBytes);
  }
  if (std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0) {
    fail(ExitCode::kData, "{}: not a Megatron index: it does not begin with 'MMIDIDX'.", path);
  }
  const auto version = load<uint64_t>(file.data() + 9);
  if (version != kVersion) {
    fail(ExitCode::kData, "{}: index version {} is not known; only version 1 is.", path, version);
  }
  const auto code = load<uint8_t>(file.data() + 17);
  const std::optional<TokenType> type = token_type_of_megatron_code(code);
  if (!type) {
    fail(ExitCode::kData,
         "{}: dtype code {} holds no token ids; expected 1 (u8), 2 (i8), 3 (i16), 4 (i32), 5 (i64) "
         "or 8 (u16).",
         path, code);
  }
  const auto sequences = load<uint64_t>(file.data() + 18);
  const auto boundaries = load<uint64_t>(file.data() + 26);
  // Counts this large cannot be, and the sizes below cannot overflow after this.
  constexpr uint64_t kMostEntries = 1ULL << 56;
  if (sequences > kMostEntries || boundaries > kMostEntries || boundaries == 0) {
    fail(
        ExitCode::kData,
        "{}: {} sequences and {} document boundaries are impossible counts; the header is damaged.",
        path, sequences, boundaries);
  }
  const uint64_t expected = kHeaderBytes + sequences * (4 + 8) + boundaries * 8;
  if (file.size() != expected) {
    fail(
        ExitCode::kData,
        "{}: {} bytes, but an index of {} sequences and {} document boundaries has {}; the file is "
        "truncated, damaged or has parts that are not token documents.",
        path, file.size(), sequences, boundaries, expected);
  }
  const std::byte* lengths = file.data() + kHeaderBytes;
  const std::byte* pointers = lengths + 4 * sequences;
  return {*type,    static_cast<int64_t>(sequences), static_cast<int64_t>(boundaries) - 1, lengths,
          pointers, pointers + 8 * sequences};
}

void IndexedDataset::check_sequences() const {
  const auto size = static_cast<int64_t>(token_bytes(index_.type));
  const auto payload_bytes = static_cast<int64_t>(payload_.size());
  int64_t expected = 0;
  for (int64_t i = 0; i < index_.sequences; ++i) {
    const int64_t length = load<int32_t>(index_.lengths, i);
    const int64_t pointer = load<int64_t>(index_.pointers, i);
    if (length < 0) {
      fail(ExitCode::kData, "{}: sequence {} has the negative length {}.", index_file_.path(), i,
           length);
    }
    if (pointer != expected) {
      fail(ExitCode::kData,
           "{}: sequence {} begins at byte {} of the payload, but the sequences before it end at "
           "byte {}; sequences must follow each other in order without gaps.",
           index_file_.path(), i, pointer, expected);
    }
    expected += length * size;
    if (expected > payload_bytes) {
      fail(
          ExitCode::kData,
          "{}: sequence {} ends at byte {}, outside '{}', which has {} bytes and may be truncated.",
          index_file_.path(), i, expected, payload_.path(), payload_bytes);
    }
  }
  if (expected != payload_bytes) {
    fail(ExitCode::kData,
         "{}: {} bytes, but its index describes {} ({} sequences of {}-byte tokens).",
         payload_.path(), payload_bytes, expected, index_.sequences, size);
  }
}

void IndexedDataset::check_boundaries() const {
  int64_t before = 0;
  for (int64_t i = 0; i <= index_.documents; ++i) {
    const int64_t boundary = load<int64_t>(index_.boundaries, i);
    if (boundary < before || boundary > index_.sequences || (i == 0 && boundary != 0)) {
      fail(ExitCode::kData,
           "{}: document boundary {} is sequence {}; boundaries must begin with 0, not decrease "
           "(the one before is {}) and not exceed the {} sequences.",
           index_file_.path(), i, boundary, before, index_.sequences);
    }
    before = boundary;
  }
  if (before != index_.sequences) {
    fail(ExitCode::kData, "{}: the documents end at sequence {}, but there are {} sequences.",
         index_file_.path(), before, index_.sequences);
  }
}

void IndexedDataset::read(int64_t begin, std::span<int32_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  SWIATTN_CHECK(begin >= 0 && count <= tokens_ - begin, "{}: {} tokens from {} of {}", name(),
                count, begin, tokens_);
  const auto size = static_cast<int64_t>(token_bytes(index_.type));
  decode_tokens(index_.type, payload_.data() + begin * size, out);
}

int64_t IndexedDataset::document_begin(int64_t number) const {
  const auto sequence = load<int64_t>(index_.boundaries, number);
  if (sequence == index_.sequences) return tokens_;
  const auto size = static_cast<int64_t>(token_bytes(index_.type));
  return load<int64_t>(index_.pointers, sequence) / size;
}

int64_t IndexedDataset::first_document_from(int64_t token) const {
  int64_t low = 0;
  int64_t high = index_.documents;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (document_begin(middle) < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

std::vector<int64_t> IndexedDataset::document_starts(int64_t begin, int64_t end) const {
  std::vector<int64_t> starts;
  for (int64_t i = first_document_from(begin); i < index_.documents; ++i) {
    const int64_t start = document_begin(i);
    if (start >= end) break;
    if (starts.empty() || starts.back() != start) starts.push_back(start);
  }
  return starts;
}

TokenRange IndexedDataset::document(int64_t number) const {
  SWIATTN_CHECK(number >= 0 && number < index_.documents, "{}: document {} of {}", name(), number,
                index_.documents);
  return {document_begin(number), document_begin(number + 1)};
}

int64_t IndexedDataset::document_at(int64_t token) const {
  SWIATTN_CHECK(token >= 0 && token < tokens_, "{}: token {} of {}", name(), token, tokens_);
  return first_document_from(token + 1) - 1;
}

void write_index(WritableFile& file, TokenType type, std::span<const int32_t> lengths) {
  const auto append = [&file](auto value) { file.append(&value, sizeof(value)); };
  file.append(kMagic);
  append(kVersion);
  append(static_cast<uint8_t>(type));
  append(static_cast<uint64_t>(lengths.size()));
  append(static_cast<uint64_t>(lengths.size() + 1));
  file.append(lengths.data(), lengths.size_bytes());

  std::vector<int64_t> column(lengths.size() + 1);
  for (size_t i = 0; i < lengths.size(); ++i) {
    column[i + 1] = column[i] + lengths[i] * static_cast<int64_t>(token_bytes(type));
  }
  file.append(column.data(), lengths.size() * sizeof(int64_t));
  for (size_t i = 0; i < column.size(); ++i) column[i] = static_cast<int64_t>(i);
  file.append(column.data(), column.size() * sizeof(int64_t));
}

}  // namespace swiattn
