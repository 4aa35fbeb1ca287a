#include "data/added_tokens.h"

#include <algorithm>
#include <utility>

namespace swiattn {

void AddedTokens::add(std::string content, int32_t id) {
  auto& tokens = by_first_byte_[static_cast<unsigned char>(content.front())];
  const auto shorter = [&](const Token& token) { return token.content.size() < content.size(); };
  const auto place = std::find_if(tokens.begin(), tokens.end(), shorter);
  tokens.insert(place, {std::move(content), id});
}

AddedTokens::Found AddedTokens::find(std::string_view text, size_t offset) const {
  for (; offset < text.size(); ++offset) {
    for (const Token& token : by_first_byte_[static_cast<unsigned char>(text[offset])]) {
      if (text.substr(offset).starts_with(token.content)) {
        return {offset, offset + token.content.size(), token.id};
      }
    }
  }
  return {};
}

}  // namespace swiattn
