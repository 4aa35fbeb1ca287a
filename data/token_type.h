// How a shard stores a token id, and how stored ids become int32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace swiattn {

// The values 1 to 8 are the dtype codes of Megatron index files, which know no u32.
enum class TokenType : uint8_t {
  kU8 = 1,
  kI8 = 2,
  kI16 = 3,
  kI32 = 4,
  kI64 = 5,
  kU16 = 8,
  kU32 = 100
};

// The type tokens are written in: u16 when every id below `vocab_size` fits, else i32.
TokenType token_type_for(int64_t vocab_size);

size_t token_bytes(TokenType type);
std::string_view token_type_name(TokenType type);                    // "u16"
std::optional<TokenType> token_type_named(std::string_view name);    // the inverse
std::optional<TokenType> token_type_of_megatron_code(uint8_t code);  // nothing for floats

// Converts out.size() little-endian ids, which need not be aligned. An id that int32 does not hold
// becomes the nearest int32, which lies outside every vocabulary.
void decode_tokens(TokenType type, const std::byte* bytes, std::span<int32_t> out);

// The inverse, for kU16 and kI32, the types that we write.
void encode_tokens(TokenType type, std::span<const int32_t> ids, std::byte* bytes);

}  // namespace swiattn
