#include "data/regex_dialect.h"

#include <cctype>
#include <utility>

#include "base/error.h"

namespace swiattn {
namespace {

constexpr std::string_view kCategories = "LMNPSZC";
constexpr std::string_view kSpaceInClass = "\\p{Z}\\t-\\r\\x{85}";  // Unicode's White_Space

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& place) : rest_(pattern), place_(place) {}

  std::string translate() {
    while (!rest_.empty()) {
      if (rest_[0] == '\\') {
        escape(/*in_class=*/false);
      } else if (rest_[0] == '[') {
        character_class();
      } else if (rest_[0] == '(') {
        group();
      } else if (rest_[0] == '^' || rest_[0] == '$' || rest_[0] == '.') {
        refuse(rest_.substr(0, 1));
      } else {
        for (const std::string_view interval : {"}+", "}?", "{,"}) {
          if (rest_.starts_with(interval)) refuse(interval);
        }
        copy(1);
      }
    }
    return std::move(output_);
  }

 private:
  void copy(size_t count) {
    output_.append(rest_.substr(0, count));
    rest_.remove_prefix(count);
  }

  void escape(bool in_class) {
    const char kind = rest_.size() > 1 ? rest_[1] : '\0';
    if (kind == 's' || kind == 'S') {
      if (in_class && kind == 'S') refuse("\\S inside [ ]");
      if (!in_class) output_ += kind == 's' ? "[" : "[^";
      output_ += kSpaceInClass;
      if (!in_class) output_ += "]";
      rest_.remove_prefix(2);
    } else if (kind == 'p' || kind == 'P') {
      // Only general categories: names of scripts mean script extensions in newer PCRE2.
      const size_t close = rest_.find('}');
      const bool category = rest_.substr(2, 1) == "{" && (close == 4 || close == 5) &&
                            kCategories.find(rest_[3]) != kCategories.npos;
      if (!category) refuse(rest_.substr(0, close == rest_.npos ? 3 : close + 1));
      copy(close + 1);
    } else if (std::string_view("nrtd").find(kind) != std::string_view::npos ||
               (kind > ' ' && kind < 0x7F && !std::isalnum(static_cast<unsigned char>(kind)))) {
      copy(2);
    } else {
      refuse(rest_.substr(0, 2));
    }
  }

  void character_class() {
    copy(rest_.starts_with("[^") ? 2 : 1);
    if (rest_.starts_with("]")) refuse("[]");
    while (!rest_.starts_with("]")) {
      if (rest_.empty()) refuse("[ without ]");
      if (rest_[0] == '[' || rest_.starts_with("&&")) refuse(rest_.substr(0, 2));
      if (rest_[0] == '\\') {
        escape(/*in_class=*/true);
      } else {
        copy(1);
      }
    }
    copy(1);
  }

  void group() {
    for (const std::string_view known : {"(?:", "(?i:", "(?=", "(?!"}) {
      if (rest_.starts_with(known)) return copy(known.size());
    }
    if (rest_.starts_with("(?") || rest_.starts_with("(*")) refuse(rest_.substr(0, 4));
    copy(1);
  }

  [[noreturn]] void refuse(std::string_view construct) const {
    fail(ExitCode::kData, "{}: the regular expression uses '{}', which is not implemented.", place_,
         construct);
  }

  std::string_view rest_;
  const std::string& place_;
  std::string output_;
};

}  // namespace

std::string translate_oniguruma(std::string_view pattern, const std::string& place) {
  return Translator(pattern, place).translate();
}

}  // namespace swiattn
