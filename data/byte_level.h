// GPT-2's way to write arbitrary bytes as printable characters, in which byte-level vocabularies
// are stored: '!'…'~', '¡'…'¬' and '®'…'ÿ' stand for themselves, the other 68 bytes for U+0100
// onwards.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace swiattn {

// The bytes that a vocabulary entry stands for, or nothing when one of its characters stands for no
// byte. `token` must be UTF-8.
std::optional<std::string> bytes_of_byte_level_token(std::string_view token);

}  // namespace swiattn
