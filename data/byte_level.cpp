#include "data/byte_level.h"

#include <array>
#include <cstdint>

#include "base/utf8.h"

namespace swiattn {
namespace {

constexpr int kMappedCharacters = 0x100 + 68;

constexpr bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// The byte of each character below kMappedCharacters, -1 where there is none.
constexpr std::array<int16_t, kMappedCharacters> make_bytes() {
  std::array<int16_t, kMappedCharacters> bytes{};
  bytes.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 0x100; ++byte) {
    bytes[stands_for_itself(byte) ? byte : next++] = static_cast<int16_t>(byte);
  }
  return bytes;
}

constexpr auto kBytes = make_bytes();

}  // namespace

std::optional<std::string> bytes_of_byte_level_token(std::string_view token) {
  std::string bytes;
  for (size_t offset = 0; offset < token.size();) {
    const char32_t c = next_code_point(token, offset);
    if (c >= kMappedCharacters || kBytes[c] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kBytes[c]));
  }
  return bytes;
}

}  // namespace swiattn
