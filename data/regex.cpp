#include "data/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>
#include <limits>
#include <new>

#include "base/error.h"
#include "data/regex_dialect.h"

namespace swiattn {
namespace {

struct Release {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

std::string message_of(int error) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(error, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

PCRE2_SPTR code_units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Release> pcre2;
};

struct Regex::Match::State {
  std::unique_ptr<pcre2_match_data, Release> data;
  std::unique_ptr<pcre2_match_context, Release> context;
};

Regex::Match::Match() : state_(new State{}) {
  state_->data.reset(pcre2_match_data_create(1, nullptr));
  state_->context.reset(pcre2_match_context_create(nullptr));
  if (!state_->data || !state_->context) throw std::bad_alloc();
  // The limit set by default is reached by some megabytes of white space.
  pcre2_set_match_limit(state_->context.get(), std::numeric_limits<uint32_t>::max());
}
Regex::Match::~Match() = default;
size_t Regex::Match::begin() const { return pcre2_get_ovector_pointer(state_->data.get())[0]; }
size_t Regex::Match::end() const { return pcre2_get_ovector_pointer(state_->data.get())[1]; }

Regex::Regex(const std::string& pattern, const std::string& place)
    : pattern_(pattern), code_(std::make_unique<Code>()) {
  const std::string translated = translate_oniguruma(pattern, place);
  int error = 0;
  size_t offset = 0;
  code_->pcre2.reset(pcre2_compile(code_units(translated), translated.size(), PCRE2_UTF | PCRE2_UCP,
                                   &error, &offset, nullptr));
  if (!code_->pcre2) {
    fail(ExitCode::kData, "{}: the regular expression '{}' does not compile: {}.", place, pattern,
         message_of(error));
  }
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code_->pcre2.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty) {
    fail(ExitCode::kData,
         "{}: the regular expression '{}' can match the empty string, which is not implemented.",
         place, pattern);
  }
  // Where there is no JIT for this machine, pcre2_match interprets.
  pcre2_jit_compile(code_->pcre2.get(), PCRE2_JIT_COMPLETE);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

bool Regex::find(std::string_view text, size_t offset, Match& match) const {
  const int result =
      pcre2_match(code_->pcre2.get(), code_units(text), text.size(), offset, PCRE2_NO_UTF_CHECK,
                  match.state_->data.get(), match.state_->context.get());
  if (result >= 0) return true;
  if (result == PCRE2_ERROR_NOMATCH) return false;
  fail(ExitCode::kData, "The tokenizer's regular expression '{}' failed at byte {} of a text: {}.",
       pattern_, offset, message_of(result));
}

}  // namespace swiattn
