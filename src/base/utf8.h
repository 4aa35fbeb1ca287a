// Well-formed UTF-8, with the place where it ends.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace swiattn {

// The number of leading bytes of `bytes` that are whole, well-formed characters: bytes.size() when
// all of them are. Well-formed as in the Unicode standard, table 3-7.
size_t valid_utf8_prefix(std::string_view bytes);

inline bool is_valid_utf8(std::string_view bytes) {
  return valid_utf8_prefix(bytes) == bytes.size();
}

// `bytes` with U+FFFD for every ill-formed part, one for each maximal subpart, as Python's
// errors="replace" does.
std::string replace_invalid_utf8(std::string_view bytes);

// Appends the UTF-8 form of a code point.
void append_utf8(std::string& text, char32_t code_point);

// Reads the character that starts at text[offset], which must be well-formed, and moves offset past
// it.
char32_t next_code_point(std::string_view text, size_t& offset);

}  // namespace swiattn
