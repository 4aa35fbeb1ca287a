#include "data/wire_format.h"

#include <cstring>

#include "base/error.h"

namespace swiattn {

bool WireReader::next() {
  if (rest_.empty()) return false;
  const uint64_t tag = read_varint();
  type_ = static_cast<Type>(tag & 7);
  field_ = static_cast<uint32_t>(tag >> 3);
  if (tag >> 3 == 0 || tag >> 32 != 0) refuse();
  switch (type_) {
    case Type::kVarint:
      number_ = read_varint();
      return true;
    case Type::kFixed64:
      bytes_ = take(8);
      return true;
    case Type::kBytes:
      bytes_ = take(read_varint());
      return true;
    case Type::kFixed32:
      bytes_ = take(4);
      return true;
  }
  refuse();
}

uint64_t WireReader::varint() const {
  expect(Type::kVarint);
  return number_;
}

std::string_view WireReader::bytes() const {
  expect(Type::kBytes);
  return bytes_;
}

float WireReader::float32() const {
  expect(Type::kFixed32);
  float value;
  std::memcpy(&value, bytes_.data(), sizeof(value));
  return value;
}

uint64_t WireReader::read_varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(1).front());
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  refuse();
}

std::string_view WireReader::take(uint64_t count) {
  if (count > rest_.size()) refuse();
  const std::string_view taken = rest_.substr(0, count);
  rest_.remove_prefix(count);
  return taken;
}

void WireReader::expect(Type type) const {
  if (type_ != type) refuse();
}

void WireReader::refuse() const {
  fail(ExitCode::kData, "{} is not a sentencepiece model, or it is damaged.", source_);
}

}  // namespace swiattn
