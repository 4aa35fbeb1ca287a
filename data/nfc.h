// Unicode's normalization form C.
#pragma once

#include <string>
#include <string_view>

namespace swiattn {

// `text` (UTF-8) in form C: `text` itself when it visibly is so already, else a view of `storage`.
std::string_view to_nfc(std::string_view text, std::string& storage);

// Whether a character is its own form C, never joins the one before it, and is never reordered
// (NFC_Quick_Check = Yes and combining class 0), for the characters most used: false tells nothing.
bool is_nfc_starter(char32_t code_point);

}  // namespace swiattn
