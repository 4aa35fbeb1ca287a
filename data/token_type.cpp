#include "data/token_type.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"

namespace swiattn {
namespace {

struct Row {
  TokenType type;
  size_t bytes;
  std::string_view name;
};

constexpr std::array<Row, 7> kTypes = {{{TokenType::kU8, 1, "u8"},
                                        {TokenType::kI8, 1, "i8"},
                                        {TokenType::kI16, 2, "i16"},
                                        {TokenType::kI32, 4, "i32"},
                                        {TokenType::kI64, 8, "i64"},
                                        {TokenType::kU16, 2, "u16"},
                                        {TokenType::kU32, 4, "u32"}}};

const Row& row_of(TokenType type) {
  const auto row = std::find_if(kTypes.begin(), kTypes.end(),
                                [type](const Row& candidate) { return candidate.type == type; });
  SWIATTN_CHECK(row != kTypes.end(), "no token type {}", static_cast<int>(type));
  return *row;
}

template <class Stored>
void decode(const std::byte* bytes, std::span<int32_t> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    Stored id;
    std::memcpy(&id, bytes + i * sizeof(Stored), sizeof(Stored));
    if constexpr (sizeof(Stored) < sizeof(int32_t)) {
      out[i] = int32_t{id};
    } else if (std::in_range<int32_t>(id)) {
      out[i] = static_cast<int32_t>(id);
    } else {
      out[i] = id < Stored{0} ? std::numeric_limits<int32_t>::min()
                              : std::numeric_limits<int32_t>::max();
    }
  }
}

template <class Stored>
void encode(std::span<const int32_t> ids, std::byte* bytes) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const Stored id = static_cast<Stored>(ids[i]);
    std::memcpy(bytes + i * sizeof(Stored), &id, sizeof(Stored));
  }
}

}  // namespace

TokenType token_type_for(int64_t vocab_size) {
  return vocab_size <= 65536 ? TokenType::kU16 : TokenType::kI32;
}

size_t token_bytes(TokenType type) { return row_of(type).bytes; }

std::string_view token_type_name(TokenType type) { return row_of(type).name; }

std::optional<TokenType> token_type_named(std::string_view name) {
  for (const Row& row : kTypes) {
    if (row.name == name) return row.type;
  }
  return std::nullopt;
}

std::optional<TokenType> token_type_of_megatron_code(uint8_t code) {
  for (const Row& row : kTypes) {
    if (row.type != TokenType::kU32 && static_cast<uint8_t>(row.type) == code) return row.type;
  }
  return std::nullopt;
}

void decode_tokens(TokenType type, const std::byte* bytes, std::span<int32_t> out) {
  switch (type) {
    case TokenType::kU8:
      return decode<uint8_t>(bytes, out);
    case TokenType::kI8:
      return decode<int8_t>(bytes, out);
    case TokenType::kI16:
      return decode<int16_t>(bytes, out);
    case TokenType::kI32:
      return decode<int32_t>(bytes, out);
    case TokenType::kI64:
      return decode<int64_t>(bytes, out);
    case TokenType::kU16:
      return decode<uint16_t>(bytes, out);
    case TokenType::kU32:
      return decode<uint32_t>(bytes, out);
  }
}

void encode_tokens(TokenType type, std::span<const int32_t> ids, std::byte* bytes) {
  if (type == TokenType::kU16) return encode<uint16_t>(ids, bytes);
  if (type == TokenType::kI32) return encode<int32_t>(ids, bytes);
  SWIATTN_CHECK(false, "tokens are never written as {}", token_type_name(type));
}

}  // namespace swiattn
