// Translates a regular expression from Oniguruma's dialect to PCRE2's.
#pragma once

#include <string>
#include <string_view>

namespace swiattn {

// Returns a PCRE2 pattern (for PCRE2_UTF | PCRE2_UCP) that matches what `pattern` matches in
// Oniguruma. Throws Error{kData} beginning with `place` and naming the construct when the two
// engines might read it differently.
std::string translate_oniguruma(std::string_view pattern, const std::string& place);

}  // namespace swiattn
