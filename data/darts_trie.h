// The double-array trie (Darts-clone) inside a sentencepiece normalizer.
#pragma once

#include <string>
#include <string_view>

namespace swiattn {

// Checks a `precompiled_charsmap`: u32 size of the trie, the trie's units, then the texts that its
// values point into, each ended by a zero byte. Throws Error{kData} beginning with `source` unless
// every look-up, whatever the text, stays inside the trie and every value inside the texts.
void check_charsmap(std::string_view charsmap, const std::string& source);

}  // namespace swiattn
