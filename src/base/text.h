// Small helpers on text that several folders need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace swiattn {

// The candidate with the smallest edit distance to `word`, or "" when none is near enough for a
// "did you mean" (more than a third of the letters differ).
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// `text` whole, or cut to at most `limit` bytes between two characters and ended with "...".
std::string shorten(std::string_view text, size_t limit);

// Shell-like glob of a whole text: * any run, ? one character.
bool glob_matches(std::string_view pattern, std::string_view text);

// 32 hexadecimal digits by chance, for a name that nobody else takes.
std::string random_digits();

// "2.33 MiB".
std::string readable_bytes(uint64_t bytes);

}  // namespace swiattn
