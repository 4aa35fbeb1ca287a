#include "data/nfc.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "base/check.h"
#include "base/utf8.h"

namespace swiattn {

bool is_nfc_starter(char32_t c) {
  struct Range {
    char32_t first, last;
  };
  static constexpr Range kStarters[] = {
      {0x0000, 0x02FF},    // Latin, IPA
      {0x0391, 0x0482},    // Greek and Cyrillic letters
      {0x048A, 0x058F},    // Cyrillic, Armenian
      {0x2010, 0x2027},    // dashes, quotation marks, ellipsis
      {0x3001, 0x3029},    // CJK punctuation
      {0x3041, 0x3098},    // hiragana
      {0x309B, 0x30FF},    // katakana
      {0x4E00, 0x9FFF},    // CJK ideographs
      {0xAC00, 0xD7A3},    // hangul syllables
      {0xFF01, 0xFFEF},    // full-width forms
      {0x1F300, 0x1FAFF},  // emoji
  };
  for (const Range& range : kStarters) {
    if (c <= range.last) return c >= range.first;
  }
  return false;
}

std::string_view to_nfc(std::string_view text, std::string& storage) {
  bool is_nfc = true;
  for (size_t offset = 0; is_nfc && offset < text.size();) {
    is_nfc = is_nfc_starter(next_code_point(text, offset));
  }
  if (is_nfc) return text;
  utf8proc_uint8_t* normalized = nullptr;
  const auto size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &normalized,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(normalized, std::free);
  SWIATTN_CHECK(size >= 0, "utf8proc: {}", utf8proc_errmsg(size));
  storage.assign(reinterpret_cast<const char*>(normalized), static_cast<size_t>(size));
  return storage;
}

}  // namespace swiattn
