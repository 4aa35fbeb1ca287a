#include "base/utf8.h"

#include <cstdint>
#include <cstring>

namespace swiattn {
namespace {

bool is_continuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

// A lead byte's sequence: its length, and the range of its second byte.
struct Sequence {
  size_t length = 0;  // 0 for a byte that begins nothing
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
};

Sequence sequence_of(unsigned char lead) {
  if (lead < 0x80) return {1};
  if (lead < 0xC2) return {};
  if (lead < 0xE0) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {};
}

// How many bytes at `offset` are the beginning of a well-formed character, and whether all of it.
struct Match {
  size_t bytes;
  bool whole;
};

Match match_character(std::string_view bytes, size_t offset) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const Sequence sequence = sequence_of(byte(offset));
  if (sequence.length == 0) return {1, false};
  size_t count = 1;
  while (count < sequence.length && offset + count < bytes.size()) {
    const unsigned char next = byte(offset + count);
    const bool fits =
        count == 1 ? next >= sequence.low && next <= sequence.high : is_continuation(next);
    if (!fits) break;
    ++count;
  }
  return {count, count == sequence.length};
}

}  // namespace

size_t valid_utf8_prefix(std::string_view bytes) {
  size_t offset = 0;
  while (offset < bytes.size()) {
    uint64_t word;
    while (offset + sizeof(word) <= bytes.size()) {  // eight ASCII characters at a time
      std::memcpy(&word, bytes.data() + offset, sizeof(word));
      if (word & 0x8080808080808080ULL) break;
      offset += sizeof(word);
    }
    if (offset == bytes.size()) break;
    const Match match = match_character(bytes, offset);
    if (!match.whole) return offset;
    offset += match.bytes;
  }
  return offset;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t valid = valid_utf8_prefix(bytes);
    text.append(bytes.substr(0, valid));
    if (valid == bytes.size()) break;
    append_utf8(text, 0xFFFD);
    bytes.remove_prefix(valid + match_character(bytes, valid).bytes);
  }
  return text;
}

void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

char32_t next_code_point(std::string_view text, size_t& offset) {
  const auto lead = static_cast<unsigned char>(text[offset++]);
  if (lead < 0x80) return lead;
  const int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  char32_t c = lead & (0x3F >> more);
  for (int i = 0; i < more; ++i) c = c << 6 | (static_cast<unsigned char>(text[offset++]) & 0x3F);
  return c;
}

}  // namespace swiattn
