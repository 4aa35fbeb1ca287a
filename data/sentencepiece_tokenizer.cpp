#include "data/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/utf8.h"
#include "data/sentencepiece_model.h"

namespace swiattn {
namespace {

constexpr std::string_view kSpace = "\u2581";  // what the library writes for a space

// Whether a space stands inside the piece, after something else.
bool has_inner_space(std::string_view piece) {
  while (piece.starts_with(kSpace)) piece.remove_prefix(kSpace.size());
  return piece.find(kSpace) != piece.npos;
}

// Whether no merge reaches over the place before a space that follows a letter. Unigram models are
// left whole: the library adds their scores up from the start of the text, rounding as it goes.
bool is_cuttable(const SentencepieceModel& model) {
  return model.is_bpe && model.add_dummy_prefix && model.escape_whitespaces &&
         !model.whitespace_is_suffix && model.own_normalizer &&
         std::none_of(model.pieces.begin(), model.pieces.end(),
                      [](const auto& piece) { return has_inner_space(piece.text); });
}

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

}  // namespace

struct SentencepieceTokenizer::Library {
  sentencepiece::SentencePieceProcessor processor;
};

SentencepieceTokenizer::SentencepieceTokenizer(std::string name, const std::string& model,
                                               const std::string& path)
    : Tokenizer(std::move(name), format_hash(hash_text(model))),
      library_(std::make_unique<Library>()),
      cuttable_(is_cuttable(read_sentencepiece_model(model, path))) {
  const auto status = library_->processor.LoadFromSerializedProto(model);
  if (!status.ok()) {
    fail(ExitCode::kData, "{}: the sentencepiece library refuses it: {}.", path, status.message());
  }
  if (library_->processor.eos_id() >= 0) set_eos_id(library_->processor.eos_id());
}

SentencepieceTokenizer::~SentencepieceTokenizer() = default;

std::vector<int32_t> SentencepieceTokenizer::encode(std::string_view text) const {
  const size_t valid = valid_utf8_prefix(text);
  if (valid < text.size()) {
    fail(ExitCode::kData, "The text is not valid UTF-8 at byte {}.", valid);
  }
  std::vector<int32_t> ids;
  const auto status = library_->processor.Encode(text, &ids);
  if (!status.ok()) {
    fail(ExitCode::kData, "{}: encoding failed: {}.", name(), status.message());
  }
  return ids;
}

std::string SentencepieceTokenizer::decode(std::span<const int32_t> ids) const {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size()) {
      fail(ExitCode::kData, "{} has no token with the id {}.", name(), id);
    }
  }
  std::string text;
  const auto status = library_->processor.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
  if (!status.ok()) {
    fail(ExitCode::kData, "{}: decoding failed: {}.", name(), status.message());
  }
  return text;
}

size_t SentencepieceTokenizer::last_cut(std::string_view text) const {
  if (!cuttable_) return 0;
  for (size_t n = text.size() < 3 ? 0 : text.size() - 2; n > 0; --n) {
    if (text[n] == ' ' && is_alphanumeric(text[n - 1]) && is_alphanumeric(text[n + 1])) return n;
  }
  return 0;
}

std::vector<int32_t> SentencepieceTokenizer::encode_after_cut(std::string_view text) const {
  return encode(text.substr(1));  // the library puts the space back
}

std::optional<int32_t> SentencepieceTokenizer::token_id(std::string_view token) const {
  const int32_t id = library_->processor.PieceToId(token);
  if (library_->processor.IdToPiece(id) != token) return std::nullopt;
  return id;
}

int32_t SentencepieceTokenizer::vocab_size() const { return library_->processor.GetPieceSize(); }

}  // namespace swiattn
